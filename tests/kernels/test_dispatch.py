"""Which step is taken, and when that changes."""

import pytest
import torch
from kernel_cases import nan_like, random_weights, task

from unmix.kernels import cpu, dense, dense_bf16
from unmix.kernels.dispatch import HYSTERESIS, Step
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Noise

B, D, F = 50, 8, 100


@pytest.fixture
def taken(monkeypatch):
    """The kernels that were called, in order."""
    called = []
    for kernel, name in ((cpu, "sparse"), (dense, "fp32"), (dense_bf16, "bf16")):

        def watched(*words, name=name, step=kernel.step):
            called.append(name)
            return step(*words)

        monkeypatch.setattr(kernel, "step", watched)
    return called


PLAIN, TANH = task(1.0), task(1.0, phi="tanh_relu")


def at_density(step, density, of=PLAIN, dtype=torch.float32):
    """Take a step in which this share of the features is active for every token."""
    weights = random_weights(D, F, 0, dtype)
    weights["b_enc"].fill_(-1000)[: round(density * F)] = 1000
    x_BD = torch.randn(B, D, dtype=dtype)
    return step(x_BD, x_BD, weights, nan_like(weights), of)


@pytest.mark.parametrize("border", [0.08, 0.24])
@pytest.mark.parametrize(
    ("asked", "of", "numbers"), [("fp32", PLAIN, "fp32"), ("bf16", PLAIN, "bf16"), ("bf16", TANH, "fp32")]
)
def test_a_member_is_dense_until_below_the_border_and_sparse_until_well_above(border, asked, of, numbers, taken):
    step = Step(dense=asked, border=border)
    above = HYSTERESIS * border
    between = (border + above) / 2
    for density in (0.5, between, border - 0.01, between, above + 0.01, border, 0.5):
        at_density(step, density, of)
    assert taken == [numbers, numbers, numbers, "sparse", "sparse", numbers, numbers]


def test_noise_tanh_and_double_precision_are_not_rounded_to_bf16(taken):
    at_density(Step(dense="bf16"), 0.5, task(1.0, noise=Noise(0.1, noise_key(0, 1))))
    at_density(Step(dense="bf16"), 0.5, TANH)
    at_density(Step(dense="bf16"), 0.5, dtype=torch.float64)
    assert taken == ["fp32", "fp32", "fp32"]
