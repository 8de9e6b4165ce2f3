"""docs/norms.md: bounded features with a free decoder, noise, and the penalty's weight."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from norm_theory import (
    D,
    F,
    close,
    decode,
    dictionary,
    factors,
    generator,
    losses,
    many,
    penalties,
    pre,
    randn,
    relu,
    seeds,
    squares,
    tanh_relu,
)
from torch import Tensor

from unmix.kernels.task import Weights


def shrunk(w: Weights, c: float) -> Weights:
    """Pre-activations over c, decoder rows times c."""
    return {"W_enc": w["W_enc"] / c, "b_enc": w["b_enc"] / c, "W_dec": w["W_dec"] * c, "b_dec": w["b_dec"]}


def moments(z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of tanh(relu(z + ε)), ε ~ N(0, σ²), by quadrature on a fine grid."""
    standard = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    weight = torch.exp(-standard.square() / 2)
    weight /= weight.sum()
    f = tanh_relu(z[..., None] + sigma * standard)
    mean = f @ weight
    return mean, (f - mean[..., None]).square() @ weight


@many
@given(seeds, factors)
def test_relu_features_shrink_for_free(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    close(decode(relu(x_BD, shrunk(w, c)), shrunk(w, c)), decode(relu(x_BD, w), w), atol=1e-9)
    close(penalties(x_BD, shrunk(w, c)), penalties(x_BD, w) / c)
    close(penalties(x_BD, shrunk(w, c), weigh=True), penalties(x_BD, w, weigh=True))


@many
@given(seeds, factors)
def test_bounded_features_shrink_to_relu_ones(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    small = shrunk(w, c)
    z = torch.relu(pre(x_BD, w))
    gap = (decode(tanh_relu(pre(x_BD, small)), small) - decode(z, w)).norm(dim=1)
    assert bool((gap <= (z**3 * w["W_dec"].norm(dim=1)).sum(1) / (3 * c**2) + 1e-9).all())
    assert bool((penalties(x_BD, small, tanh_relu) <= z.sum(1) / c + 1e-12).all())
    close(tanh_relu(pre(x_BD, small)) > 0, z > 0)  # L0 is as before


def test_plain_penalty_on_bounded_features_vanishes() -> None:
    g = generator(0)
    w, x_BD = dictionary(g), randn(g, 20, D)
    unpenalised = squares(x_BD, w).mean()
    loss = [losses(x_BD, shrunk(w, c), 100.0, 0, tanh_relu).mean() for c in (1e2, 1e4, 1e6)]
    assert loss[0] > loss[1] > loss[2] > 0
    close(loss[2], unpenalised, rtol=1e-3)
    # a bounded dictionary is not itself among those reached: no affine z' has c·tanh(z'/c) = tanh(z) at three points
    z = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    needed = 10 * torch.atanh(torch.tanh(z) / 10)
    assert abs(needed[0] - 2 * needed[1] + needed[2]) > 0.05


def test_noise_adds_its_variance() -> None:
    g = generator(1)
    w, x_D, sigma = dictionary(g), randn(g, D), 0.7
    mean, variance = moments(pre(x_D, w), sigma)
    predicted = (decode(mean, w) - x_D).square().sum() + (variance * w["W_dec"].square().sum(1)).sum()
    z_NF = pre(x_D, w) + sigma * randn(g, 40_000, F)
    sampled = (decode(tanh_relu(z_NF), w) - x_D).square().sum(1)
    error = sampled.std() / math.sqrt(len(sampled))
    assert abs(sampled.mean() - predicted) < 4 * error
    assert error < 0.02 * predicted


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 3.0])
def test_noise_makes_huge_rows_dear(sigma: float) -> None:
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    c = torch.logspace(0, 4, 17, dtype=torch.float64)
    _, variance = moments(z[:, None] / c, sigma)
    cost = c.square() * variance  # of one feature with a row of norm 1
    assert bool((cost.diff(dim=1) >= 0).all())
    at_zero = moments(torch.zeros(1, dtype=torch.float64), sigma)[1]
    close(cost[:, -1] / c[-1] ** 2, at_zero.expand(17), rtol=0.02)
    assert round(float(moments(torch.zeros(1, dtype=torch.float64), 1.0)[1]), 2) == 0.12


def test_small_contributions_drown_in_noise() -> None:
    for sigma in (0.3, 1.0, 3.0):
        z = sigma * torch.linspace(-4, 8, 121, dtype=torch.float64)
        mean, variance = moments(z, sigma)
        cost = variance / mean.square()
        assert bool((cost.diff() < 0).all())
    mean, variance = moments(torch.tensor([-3.0, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64), 1.0)
    assert [round(m, 3) for m in mean.tolist()] == [0.0, 0.278, 0.617, 0.872, 0.972, 0.995]
    cost = (variance / mean.square()).tolist()
    assert [float(f"{c:.2g}") for c in cost] == [1200, 1.6, 0.34, 0.062, 0.007, 0.00043]


@many
@given(seeds, st.floats(1.0, 20.0))
def test_saturated_features_count_themselves(seed: int, reach: float) -> None:
    z = reach * randn(generator(seed), 20)
    f, active = tanh_relu(z), z > 0
    gap = active.sum() - f.sum()
    assert 0 <= gap <= 2 * torch.exp(-2 * z[active]).sum() + 1e-12


@many
@given(seeds, factors)
def test_decoder_norm_weight_leaves_no_discount(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    small = shrunk(w, c)
    relu_cost = penalties(x_BD, w, weigh=True)
    cost, shrunk_cost = (penalties(x_BD, v, tanh_relu, weigh=True) for v in (w, small))
    assert bool((shrunk_cost >= cost - 1e-9).all())  # shrinking makes it dearer
    assert bool((shrunk_cost <= relu_cost + 1e-9).all())
    for v, phi in ((w, torch.relu), (w, tanh_relu), (small, tanh_relu)):
        f = phi(pre(x_BD, v))
        assert bool((penalties(x_BD, v, phi, weigh=True) >= (f @ v["W_dec"]).norm(dim=1) - 1e-9).all())


@many
@given(seeds)
def test_unit_rows_cannot_grow(seed: int) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), 5 * randn(g, 5, D)
    w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
    for phi in (torch.relu, tanh_relu):
        f = phi(pre(x_BD, w))
        assert bool((f.sum(1) >= (decode(f, w) - w["b_dec"]).norm(dim=1) - 1e-9).all())
    f = tanh_relu(pre(x_BD, w))
    assert bool(((f > 0).sum(1) >= (decode(f, w) - w["b_dec"]).norm(dim=1) - 1e-9).all())


@many
@given(seeds, st.floats(0.0, 1e6))
def test_bounded_reconstructions_have_a_longest_length(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    x_hat = decode(tanh_relu(pre(c * x_BD, w)), w)
    assert bool((x_hat.norm(dim=1) <= w["b_dec"].norm() + w["W_dec"].norm(dim=1).sum() + 1e-9).all())


def test_far_out_bounded_reconstructions_stand_still() -> None:
    g = generator(0)
    w, x_BD, c = dictionary(g), randn(g, 5, D), 1e6
    last = decode((x_BD @ w["W_enc"] > 0).double(), w)
    x_hat = decode(tanh_relu(pre(c * x_BD, w)), w)
    close(x_hat, last)
    assert bool((x_hat.norm(dim=1) / (c * x_BD).norm(dim=1) < 1e-4).all())
    close(squares(c * x_BD, w, tanh_relu) / (c * x_BD).square().sum(1), torch.ones(5), rtol=1e-3)
