"""How a step is recorded: on a stream and in memory of its own, whose name torch takes back with its last graph."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu_graph
from unmix.kernels.gpu_workspace import Workspace


class Stream:
    def __init__(self, device):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


class Cuda:
    """As torch.cuda keeps the memory of graphs."""

    def __init__(self):
        self.pools, self.main, self.now = {}, Stream(None), None
        self.Stream, cuda = Stream, self

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                assert capture_error_mode == "thread_local"
                assert cuda.now is not None, "recorded on the stream that everything else is on"
                assert not gc.isenabled()
                owners = cuda.pools.setdefault(pool, None)
                if owners is not None and not any(ref() for ref in owners):
                    raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
                cuda.pools[pool] = [*(owners or []), weakref.ref(self)]
                self.ended = False

            def capture_end(self):
                self.ended = True

        self.CUDAGraph = Graph

    def graph_pool_handle(self):
        return (0, len(self.pools) + 1)

    def current_stream(self, device):
        return self.main

    @contextmanager
    def stream(self, stream):
        self.now = stream
        yield
        self.now = None


@pytest.fixture
def cuda(monkeypatch):
    found = Cuda()
    monkeypatch.setattr(gpu_graph.torch, "cuda", found)
    return found


def test_memory_is_shared_and_keeps_its_name_when_recorded_steps_are_dropped(cuda):
    workspace = Workspace(3, torch.zeros(1))
    for number in range(3):
        graph, found = gpu_graph.record(lambda number=number: number, workspace)
        assert (found, graph.ended) == (number, True)
        del graph
        gc.collect()
    assert len(cuda.pools) == 1
    assert gc.isenabled()


def test_what_is_recorded_comes_after_what_is_queued_and_before_what_follows(cuda):
    workspace = Workspace(3, torch.zeros(1))
    gpu_graph.record(lambda: None, workspace)
    stream = workspace.recording[1]
    assert stream.waited == [cuda.main]
    assert cuda.main.waited == [stream]


def test_recording_that_fails_is_ended(cuda):
    workspace, graphs = Workspace(3, torch.zeros(1)), []
    made = cuda.CUDAGraph
    cuda.CUDAGraph = lambda: graphs.append(made()) or graphs[-1]

    def fails():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        gpu_graph.record(fails, workspace)
    assert graphs[0].ended
    assert gc.isenabled()
