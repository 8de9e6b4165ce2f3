"""A pass without gradients sums what a step without noise sums."""

import math

import pytest
import torch
from kernel_cases import nan_like, random_weights

from unmix.kernels import reference
from unmix.kernels.forward import forward
from unmix.kernels.reference import Noise, Objective


@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("weigh_by_norm", [True, False])
@pytest.mark.parametrize("norm_power", [0, 2])
def test_it_is_the_reference_without_noise(phi, weigh_by_norm, norm_power):
    weights = random_weights(8, 40, 0, torch.float64)
    x_BD = torch.randn(30, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = Objective(0.3, phi=phi, weigh_by_norm=weigh_by_norm, norm_power=norm_power)
    found = forward(x_BD, weights, objective._replace(noise=Noise(2.0, 7)))
    wanted = reference.step(x_BD, weights, nan_like(weights), objective)
    for key in ("squared_error", "reconstruction", "penalty"):
        assert getattr(found, key) == pytest.approx(getattr(wanted, key), rel=1e-12)
    assert torch.equal(found.active_F, wanted.active_F)
    assert torch.allclose(found.square_B, wanted.square_B)
    assert math.isnan(found.gradient_square)
