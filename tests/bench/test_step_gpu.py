"""`unmix bench step --device cuda` whole, at a tiny shape; what only a GPU can say is the test's own."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from gpu_cases import DEVICE, small_blocks

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
from unmix.bench import step_gpu
from unmix.errors import UserError
from unmix.kernels import gpu_floor, gpu_trial

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array")  # the interpreter of older tritons

BEST = {"float32_tflops": 1.0, "tf32_tflops": 8.0, "copy_tb_per_s": 1.0, "gather_16_mb_tb_per_s": 0.5}
SPARSE = {"encode", "select", "per token", "per feature"}
ALL = {"square", "update", "whole"}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Floors, the trial, the clock and the name of a GPU; each call that is timed is made."""
    monkeypatch.setattr(gpu_floor, "floors", lambda: BEST)
    monkeypatch.setattr(gpu_floor, "median_ms", lambda call, inputs, *_: (call(inputs[0]), 2.0)[1])
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80e9))
    yield from small_blocks(monkeypatch)


def run(said=None):
    shape = {"width": 5, "features": 20, "tokens": 4, "l0": 3.0, "repeats": 7}
    return step_gpu.run(**shape, device=torch.device(DEVICE), say=(said if said is not None else []).append)


def found_faster(monkeypatch, selection):
    ms = {"fp32": 2.0, "tf32": 2.0} | {selection: 1.0}
    monkeypatch.setattr(gpu_trial, "measure", lambda *shape: gpu_trial.Times(**ms, busy=4.0, dense=3.0))


def test_every_kind_of_step_is_timed_by_phase_beside_its_floor(monkeypatch):
    found_faster(monkeypatch, "tf32")
    said = []
    found = run(said)
    sparse = ["relu", "topk", "batchtopk", "jumprelu"]
    assert list(found["rows"]) == [*sparse, "relu, dense"]
    for name, row in found["rows"].items():
        assert row["ms"].keys() == row["floor"].keys() == (SPARSE if name in sparse else {"products"}) | ALL
        assert set(row["ms"].values()) == {2.0}
        assert all(least > 0 for least in row["floor"].values())
        assert row["near"] == (name in sparse)
        assert 0 < row["L0"] <= 20
    assert found["rows"]["relu, dense"]["floor"]["products"] == pytest.approx(5 * 2 * 4 * 5 * 20 / 1e9)
    assert found["auto"]["selection"] == "tf32"
    assert (found["gpu"], found["memory_gb"], found["best"]) == ("a GPU", 80.0, BEST)
    assert len(said) == 2 + len(found["rows"])
    head, _, *lines = step_gpu.table(found).splitlines()
    assert head == "one training step on a GPU: D=5, F=20, B=4; L0 asked for 3"
    cells = {line.split("  ")[0].strip(): line for line in lines if line}
    for phase in SPARSE | {"products"} | ALL:
        timed = sum(phase in row["ms"] for row in found["rows"].values())
        assert cells[phase].count("2.000 of 0.000 (0%)") == timed
        assert cells[phase].split().count("-") == len(found["rows"]) - timed


def test_the_selection_is_the_faster_one(monkeypatch):
    found_faster(monkeypatch, "fp32")
    tasks = step_gpu.tasks
    monkeypatch.setattr(step_gpu, "tasks", lambda k: {"relu": tasks(k)["relu"]})
    found = run()
    assert found["auto"]["selection"] == "fp32"
    assert [row["near"] for row in found["rows"].values()] == [False, False]


def test_too_little_memory_is_one_line(monkeypatch):
    def floors():
        raise MemoryError("about 7 GiB of free GPU memory are needed\nmore")

    monkeypatch.setattr(gpu_floor, "floors", floors)
    with pytest.raises(UserError, match=r"^about 7 GiB of free GPU memory are needed; give smaller --features or"):
        run()
