"""The border between sparse and dense steps on a GPU; the clock is the test's own."""

import pytest
import torch
from gpu_cases import DEVICE, small_blocks

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.kernels import gpu_trial

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons


@pytest.fixture(autouse=True)
def small(monkeypatch):
    yield from small_blocks(monkeypatch)


def times(**ms):
    return gpu_trial.Times(**{"fp32": 2.0, "tf32": 2.5, "busy": 4.0, "dense": 3.0} | ms)


def test_the_border_is_where_a_line_through_two_sparse_steps_reaches_the_dense_one():
    lo, hi = gpu_trial.SETTLED, gpu_trial.BUSY
    assert times().border == times(fp32=2.5, tf32=2.0).border == pytest.approx((lo + hi) / 2)
    assert times(dense=1.0).border == gpu_trial.LEAST
    assert times(busy=2.0).border == times(busy=None, dense=None).border == gpu_trial.MOST


def test_the_faster_selection_is_taken():
    assert [times().selection, times(tf32=1.0).selection] == ["fp32", "tf32"]


@pytest.mark.parametrize("of", ["relu", "jumprelu", "topk"])
def test_what_is_timed_is_as_active_as_it_is_said_to_be(of, monkeypatch):
    densities, near = [], []

    def clock(call):
        densities.append(call()[1])
        return float(3 - len(densities) % 2)  # the second is faster

    made = gpu_trial.Workspace
    monkeypatch.setattr(gpu_trial, "Workspace", lambda F, like, close: near.append(close) or made(F, like, close))
    monkeypatch.setattr(gpu_trial, "milliseconds", clock)
    monkeypatch.setattr(gpu_trial, "SETTLED", 0.1)
    monkeypatch.setattr(gpu_trial, "BUSY", 0.5)
    found = gpu_trial.measure(9, 20, 8, torch.device(DEVICE), of)
    if of == "topk":
        assert (found, near) == (gpu_trial.Times(2.0, 3.0, None, None), [False, True])
        assert densities == pytest.approx([0.1, 0.1], abs=0.03)  # some have fewer above 0
    else:
        assert found == gpu_trial.Times(2.0, 3.0, 2.0, 3.0)
        assert near == [False, True, False, False]
        assert densities == pytest.approx([0.1, 0.1, 0.5, 0.5], abs=0.15)
