"""Whether the portable step is in bf16 is a matter of its time and of its gradients."""

import pytest
import torch

from unmix.kernels import autocast, portable_trial, tiles

CPU = torch.device("cpu")


def test_both_formats_are_timed_at_the_shape_of_the_run():
    found = portable_trial.measure(16, 100, 300, CPU)
    assert found.keys() == {"rows", "fp32", "bf16"}
    assert found["rows"] == 300
    assert min(found.values()) > 0


def test_more_tokens_than_tell_are_not_timed():
    assert portable_trial.measure(512, 2**14, 10**6, CPU)["rows"] == 238


@pytest.mark.parametrize("missing", [RuntimeError, TypeError, NotImplementedError])
def test_a_device_without_such_products_stays_in_float32(missing, monkeypatch):
    real = tiles.step

    def step(*words):
        if words[-1] is autocast.launch:
            raise missing("no bf16 here")
        return real(*words)

    monkeypatch.setattr(tiles, "step", step)
    assert portable_trial.measure(16, 100, 300, CPU).keys() == {"rows", "fp32"}


def test_one_whose_products_are_wrong_does_too(monkeypatch):
    """However fast: gradients are compared, so that a product that leaves out a part does not win."""
    real = tiles.step

    def step(x_BD, y_BE, weights, gradients, task, of_tile):
        sums = real(x_BD, y_BE, weights, gradients, task)
        if of_tile is autocast.launch:
            gradients["W_enc"] *= 1.05
        return sums

    monkeypatch.setattr(tiles, "step", step)
    assert portable_trial.measure(16, 100, 300, CPU).keys() == {"rows", "fp32"}


def test_running_out_of_memory_says_nothing_of_bf16(monkeypatch):
    real = tiles.step

    def step(*words):
        if words[-1] is autocast.launch:
            raise torch.OutOfMemoryError("out of memory")
        return real(*words)

    monkeypatch.setattr(tiles, "step", step)
    with pytest.raises(torch.OutOfMemoryError):
        portable_trial.measure(16, 100, 300, CPU)
