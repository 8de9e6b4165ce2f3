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


def test_the_border_is_where_a_line_through_two_sparse_steps_reaches_the_dense_one():
    lo, hi = gpu_trial.SETTLED, gpu_trial.BUSY
    assert gpu_trial.Times(dense=3.0, sparse=2.0, sparse_busy=4.0).border == pytest.approx((lo + hi) / 2)
    assert gpu_trial.Times(dense=1.0, sparse=2.0, sparse_busy=4.0).border == gpu_trial.LEAST
    assert gpu_trial.Times(dense=3.0, sparse=2.0, sparse_busy=2.0).border == gpu_trial.MOST


@pytest.mark.parametrize("jumps", [False, True])
def test_what_is_timed_is_as_active_as_it_is_said_to_be(jumps, monkeypatch):
    densities = []

    def clock(call):
        densities.append(call()[1])
        return float(len(densities))

    monkeypatch.setattr(gpu_trial, "milliseconds", clock)
    monkeypatch.setattr(gpu_trial, "SETTLED", 0.1)
    monkeypatch.setattr(gpu_trial, "BUSY", 0.5)
    assert gpu_trial.measure(9, 20, 8, torch.device(DEVICE), jumps) == gpu_trial.Times(1.0, 2.0, 3.0)
    assert densities == pytest.approx([0.5, 0.1, 0.5], abs=0.15)
