"""The statements of docs/norms.md, each held numerically in float64. The page names every test of this file."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmix.dictionary.model import NONLINEARITIES
from unmix.kernels import cpu, dense
from unmix.kernels.forward import forward
from unmix.kernels.reference import Objective, Sums, Weights, step

PAGE = Path(__file__).parents[1] / "docs" / "norms.md"
D, F = 6, 14
seeds = st.integers(0, 2**32 - 1)
factors = st.floats(1.0, 1e3)
many = settings(max_examples=25, deadline=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def dictionary(g: torch.Generator, bias: float = 1.0) -> Weights:
    """Random weights; the encoder's bias has the standard deviation `bias`, the decoder's too."""
    return Weights(randn(g, D, F), bias * randn(g, F), randn(g, F, D), bias * randn(g, D))


tanh_relu = NONLINEARITIES["tanh_relu"]


def pre(x_BD: Tensor, w: Weights) -> Tensor:
    return x_BD @ w.W_enc_DF + w.b_enc_F


def decode(f_BF: Tensor, w: Weights) -> Tensor:
    return f_BF @ w.W_dec_FD + w.b_dec_D


def squares(x_BD: Tensor, w: Weights, phi=torch.relu) -> Tensor:
    """||x̂ - x||² of each token."""
    return (decode(phi(pre(x_BD, w)), w) - x_BD).square().sum(-1)


def penalties(x_BD: Tensor, w: Weights, phi=torch.relu, *, weigh: bool = False) -> Tensor:
    """Σ_i w_i f_i of each token, w_i = ||W_dec_i|| or 1."""
    return (phi(pre(x_BD, w)) * (w.W_dec_FD.norm(dim=1) if weigh else 1.0)).sum(-1)


def losses(x_BD: Tensor, w: Weights, l1: float, k: int = 0, phi=torch.relu, *, weigh: bool = False) -> Tensor:
    return squares(x_BD, w, phi) / x_BD.norm(dim=-1) ** k + l1 * penalties(x_BD, w, phi, weigh=weigh)


def shrunk(w: Weights, c: float) -> Weights:
    """Pre-activations over c, decoder rows times c."""
    return Weights(w.W_enc_DF / c, w.b_enc_F / c, w.W_dec_FD * c, w.b_dec_D)


def moments(z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of tanh(relu(z + ε)), ε ~ N(0, σ²), by quadrature on a fine grid."""
    standard = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    weight = torch.exp(-standard.square() / 2)
    weight /= weight.sum()
    f = tanh_relu(z[..., None] + sigma * standard)
    mean = f @ weight
    return mean, (f - mean[..., None]).square() @ weight


def triple(seed: int, length: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x of about the given length, some x̂, ρ and cos."""
    g = generator(seed)
    x, x_hat = length * randn(g, D), length * randn(g, D) * 2 * torch.rand((), generator=g, dtype=torch.float64)
    return x, x_hat, x_hat.norm() / x.norm(), (x @ x_hat) / (x.norm() * x_hat.norm())


def close(a: Tensor | float, b: Tensor | float, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# The loss is that of the steps that train


def kernel(name: str, phi: str) -> Callable[..., Sums]:
    if name == "dense":
        workspace = dense.Workspace(F, torch.empty(0, dtype=torch.float64))
        return lambda x, w, g, objective: dense.step(x, w, g, objective, workspace)
    if name == "sparse":
        return lambda x, w, g, objective: cpu.step(x, w, g, objective, cpu.Workspace("fp32"))
    return step if name == "reference" else lambda x, w, g, objective: forward(x, w, objective)


@pytest.mark.parametrize("name", ["reference", "dense", "sparse", "forward"])
@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("weigh", [True, False])
def test_the_loss_is_that_of_the_kernels(name: str, phi: str, k: int, weigh: bool) -> None:
    g = generator(0)
    w, x_BD = dictionary(g), randn(g, 9, D)
    gradients = Weights(*(torch.empty_like(t) for t in w))
    sums = kernel(name, phi)(x_BD, w, gradients, Objective(0.3, phi, weigh, k, None))  # type: ignore[arg-type]
    own = torch.relu if phi == "relu" else tanh_relu
    close(squares(x_BD, w, own), sums.square_B)
    close(losses(x_BD, w, 0.3, k, own, weigh=weigh).sum(), sums.reconstruction + 0.3 * sums.penalty)


# Length and direction


@many
@given(seeds, st.floats(1e-3, 1e3))
def test_error_is_squared_length_times_a_bracket(seed: int, length: float) -> None:
    x, x_hat, rho, cos = triple(seed, length)
    error = (x_hat - x).square().sum()
    close(error, x.square().sum() * (rho**2 + 1 - 2 * rho * cos), atol=1e-12 * length**2)
    close(
        error,
        x.square().sum() * ((x_hat.norm() / x.norm()) ** 2 + 1 - 2 * (x_hat @ x) / x.square().sum()),
        atol=1e-12 * length**2,
    )
    c = 10.0  # c² and not c, what ||x|| in front of the bracket would give
    close((c * x_hat - c * x).square().sum(), c**2 * error)


@many
@given(seeds)
def test_limit_and_its_error(seed: int) -> None:
    x, x_hat, rho, cos = triple(seed)
    square = x.square().sum()
    limit = 2 * square * (1 - cos)
    error = (x_hat - x).square().sum()
    close(error - limit, square * (rho - 1) * (rho + 1 - 2 * cos), atol=1e-9)
    for exact in (torch.ones_like(rho), 2 * cos - 1):  # the two lengths at which the limit is the error
        y = x_hat / x_hat.norm() * x.norm() * exact
        if exact > 0:
            close((y - x).square().sum(), limit, atol=1e-9)
    between = min(1, 2 * cos - 1) < rho < max(1, 2 * cos - 1)
    assert bool(error < limit + 1e-12) or not between
    assert bool(error > limit - 1e-12) or between


@many
@given(seeds)
def test_best_length_is_cos(seed: int) -> None:
    x, x_hat, _, cos = triple(seed)
    if cos < 0:
        x_hat, cos = -x_hat, -cos
    best = x_hat / x_hat.norm() * x.norm() * cos
    least = (best - x).square().sum()
    close(least, x.square().sum() * (1 - cos**2))
    for other in (0.9, 0.999, 1.001, 1.1):
        assert (other * best - x).square().sum() >= least
    close(2 * x.square().sum() * (1 - cos), 2 / (1 + cos) * least)


@many
@given(seeds, st.floats(0.0, 0.95), st.sampled_from([0, 1, 2]), st.floats(0.1, 100.0))
def test_penalty_shortens(seed: int, part: float, k: int, length: float) -> None:
    g = generator(seed)
    w = dictionary(g)
    f = torch.rand(F, generator=g, dtype=torch.float64)
    y = f @ w.W_dec_FD
    x = y / y.norm() * length + 0.3 * length * randn(g, D) / math.sqrt(D)
    kappa = (f * w.W_dec_FD.norm(dim=1)).sum() / y.norm()
    assert kappa >= 1 - 1e-12
    cos = (x @ y) / (x.norm() * y.norm())
    l1 = part * 2 * cos / (kappa * x.norm() ** (k - 1))  # part = 1 would silence the token
    rho = cos - l1 * kappa * x.norm() ** (k - 1) / 2
    s = (rho * x.norm() / y.norm()).requires_grad_()
    error = (s * y - x).square().sum()
    (error / x.norm() ** k + l1 * (s * f * w.W_dec_FD.norm(dim=1)).sum()).backward()
    assert s.grad is not None
    close(s.grad * s.detach() * x.norm() ** (k - 2), 0.0, atol=1e-9)
    own = x.square().sum() * (1 - cos**2) + (l1 * kappa / 2) ** 2 * x.norm() ** (2 * k)
    close(error.detach(), own)


# Relu features


@many
@given(seeds, factors)
def test_relu_features_scale_with_x(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    smaller_bias = w._replace(b_enc_F=w.b_enc_F / c)
    close(torch.relu(pre(c * x_BD, w)), c * torch.relu(pre(x_BD, smaller_bias)), rtol=1e-9, atol=1e-9 * c)
    no_bias = w._replace(b_enc_F=torch.zeros_like(w.b_enc_F))
    close(torch.relu(pre(c * x_BD, no_bias)), c * torch.relu(pre(x_BD, no_bias)), atol=1e-9 * c)


@many
@given(seeds, st.floats(1.001, 1e3))
def test_bias_is_a_threshold_that_long_tokens_outgrow(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    thresholds = w._replace(b_enc_F=-w.b_enc_F.abs() - 1e-3)
    head_starts = w._replace(b_enc_F=w.b_enc_F.abs())

    long, scaled = torch.relu(pre(c * x_BD, thresholds)), c * torch.relu(pre(x_BD, thresholds))
    assert bool((long[long > 0] > scaled[long > 0]).all())
    assert bool((long >= scaled).all())
    assert bool((long - scaled <= (c - 1) * -thresholds.b_enc_F + 1e-9 * c).all())
    assert bool(((long > 0) >= (scaled > 0)).all())  # none falls silent
    assert bool((penalties(c * x_BD, thresholds) >= c * penalties(x_BD, thresholds) - 1e-9 * c).all())

    long, scaled = torch.relu(pre(c * x_BD, head_starts)), c * torch.relu(pre(x_BD, head_starts))
    assert bool((long <= scaled + 1e-9 * c).all())
    assert bool((long >= scaled - (c - 1) * head_starts.b_enc_F - 1e-9 * c).all())
    assert bool(((long > 0) <= (scaled > 0)).all())


@many
@given(seeds, factors)
def test_far_out_the_bias_no_longer_counts(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    slope = torch.relu(x_BD @ w.W_enc_DF)
    assert bool(((torch.relu(pre(c * x_BD, w)) / c - slope).abs() <= w.b_enc_F.abs() / c + 1e-12).all())
    far = 1e7
    bare = squares(x_BD, w._replace(b_enc_F=torch.zeros(F).double(), b_dec_D=torch.zeros(D).double()))
    close(squares(far * x_BD, w) / far**2, bare, rtol=1e-4, atol=1e-4)


@many
@given(seeds, factors, st.floats(0.0, 10.0), st.sampled_from([0, 1, 2]), st.booleans())
def test_effective_coefficient_falls_with_length(seed: int, c: float, l1: float, k: int, weigh: bool) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g, bias=0.0), randn(g, 5, D)
    close(squares(c * x_BD, w), c**2 * squares(x_BD, w))
    close(penalties(c * x_BD, w, weigh=weigh), c * penalties(x_BD, w, weigh=weigh))
    effective = l1 * c ** (k - 1)
    close(losses(c * x_BD, w, l1, k, weigh=weigh), c ** (2 - k) * losses(x_BD, w, effective, k, weigh=weigh))


@many
@given(seeds, st.integers(1, 99), factors, st.sampled_from([0, 1, 2]))
def test_share_of_a_few_long_tokens(seed: int, percent: int, m: float, k: int) -> None:
    def share(power: float) -> float:
        q = percent / 100
        return q * m**power / (q * m**power + 1 - q)

    g = generator(seed)
    w, u_D = dictionary(g, bias=0.0), randn(g, D)
    length_B = torch.ones(100, dtype=torch.float64)
    length_B[:percent] = m
    x_BD = length_B[:, None] * u_D
    square, error = x_BD.square().sum(1), squares(x_BD, w) / x_BD.norm(dim=1) ** k
    close(square[:percent].sum() / square.sum(), share(2))
    close(error[:percent].sum() / error.sum(), share(2 - k))
    if (penalty := penalties(x_BD, w)).any():
        close(penalty[:percent].sum() / penalty.sum(), share(1))
    percent, m = 1, 100.0
    assert round(share(2), 3) == 0.990
    assert round(share(1), 3) == 0.503


# Coefficients


@many
@given(seeds, st.floats(1e-2, 1e2), st.sampled_from([0, 1, 2]), st.floats(0.0, 3.0))
def test_matched_coefficient_makes_layers_comparable(seed: int, n: float, k: int, alpha: float) -> None:
    g = generator(seed)
    w, u_BD = dictionary(g), randn(g, 7, D)
    longer_relu = Weights(w.W_enc_DF, n * w.b_enc_F, w.W_dec_FD, n * w.b_dec_D)
    longer_bounded = Weights(w.W_enc_DF / n, w.b_enc_F, n * w.W_dec_FD, n * w.b_dec_D)
    for phi, weigh, longer, p in (
        (torch.relu, True, longer_relu, 1 - k),
        (torch.relu, False, longer_relu, 1 - k),
        (tanh_relu, False, longer_bounded, 2 - k),
        (tanh_relu, True, longer_bounded, 1 - k),  # the rows, and with them the penalty, grow like n
    ):
        there = losses(n * u_BD, longer, alpha * n**p, k, phi, weigh=weigh)
        close(there, n ** (2 - k) * losses(u_BD, w, alpha, k, phi, weigh=weigh), rtol=1e-8, atol=1e-9 * n ** (2 - k))
        close(phi(pre(n * u_BD, longer)) > 0, phi(pre(u_BD, w)) > 0)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_one_coefficient_leaves_the_spread_within_a_layer(k: int) -> None:
    g = generator(3)
    w = dictionary(g, bias=0.0)
    u_BD = randn(g, 200, D)
    x_BD = u_BD * torch.where(torch.arange(200)[:, None] < 2, 100.0, 1.0)

    def long_share(n: float) -> Tensor:
        beta = 0.2 * n ** (1 - k)
        loss = losses(n * x_BD, w, beta, k)
        return loss[:2].sum() / loss.sum()

    close(long_share(1e-3), long_share(1.0))  # whatever n̄, hence whatever β matched to it
    close(long_share(1e3), long_share(1.0))
    ratio = (squares(x_BD, w) / x_BD.norm(dim=1) ** k) / penalties(x_BD, w)
    bulk = (squares(u_BD, w) / u_BD.norm(dim=1) ** k) / penalties(u_BD, w)
    close(ratio[:2], bulk[:2] * 100.0 ** (1 - k))  # what a unit of penalty buys, still apart unless k = 1


def token_scaled(x_BD: Tensor) -> Tensor:
    return x_BD / x_BD.norm(dim=-1, keepdim=True) * math.sqrt(D)


@many
@given(seeds, factors, st.floats(0.0, 3.0))
def test_token_scaling_is_more_than_dividing_the_error(seed: int, c: float, l1: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    norm = x_BD.norm(dim=1)
    u_BD = token_scaled(x_BD)
    x_hat = decode(torch.relu(pre(u_BD, w)), w) * norm[:, None] / math.sqrt(D)
    close(squares(u_BD, w), D * (x_hat - x_BD).square().sum(1) / norm**2)  # the error of k = 2, for its own x̂
    close(pre(token_scaled(c * x_BD), w), pre(u_BD, w))  # direction alone

    bare = dictionary(generator(seed), bias=0.0)
    close(decode(torch.relu(pre(u_BD, bare)), bare) * norm[:, None] / math.sqrt(D), decode(relu(x_BD, bare), bare))
    both_divided = squares(x_BD, bare) / norm**2 + l1 / math.sqrt(D) * penalties(x_BD, bare) / norm
    close(losses(u_BD, bare, l1), D * both_divided)


def relu(x_BD: Tensor, w: Weights) -> Tensor:
    return torch.relu(pre(x_BD, w))


def test_with_a_bias_dividing_the_error_keeps_the_length_visible() -> None:
    g = generator(0)
    w, x_BD = dictionary(g), randn(g, 50, D)
    assert not torch.equal(relu(10 * x_BD, w) > 0, relu(x_BD, w) > 0)
    assert torch.equal(relu(token_scaled(16 * x_BD), w) > 0, relu(token_scaled(x_BD), w) > 0)


# Bounded features, free decoder


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
    assert bool((gap <= (z**3 * w.W_dec_FD.norm(dim=1)).sum(1) / (3 * c**2) + 1e-9).all())
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
    predicted = (decode(mean, w) - x_D).square().sum() + (variance * w.W_dec_FD.square().sum(1)).sum()
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
        assert bool((penalties(x_BD, v, phi, weigh=True) >= (f @ v.W_dec_FD).norm(dim=1) - 1e-9).all())


@many
@given(seeds)
def test_unit_rows_cannot_grow(seed: int) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), 5 * randn(g, 5, D)
    w = w._replace(W_dec_FD=w.W_dec_FD / w.W_dec_FD.norm(dim=1, keepdim=True))
    for phi in (torch.relu, tanh_relu):
        f = phi(pre(x_BD, w))
        assert bool((f.sum(1) >= (decode(f, w) - w.b_dec_D).norm(dim=1) - 1e-9).all())
    f = tanh_relu(pre(x_BD, w))
    assert bool(((f > 0).sum(1) >= (decode(f, w) - w.b_dec_D).norm(dim=1) - 1e-9).all())


@many
@given(seeds, st.floats(0.0, 1e6))
def test_bounded_reconstructions_have_a_longest_length(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    x_hat = decode(tanh_relu(pre(c * x_BD, w)), w)
    assert bool((x_hat.norm(dim=1) <= w.b_dec_D.norm() + w.W_dec_FD.norm(dim=1).sum() + 1e-9).all())


def test_far_out_bounded_reconstructions_stand_still() -> None:
    g = generator(0)
    w, x_BD, c = dictionary(g), randn(g, 5, D), 1e6
    last = decode((x_BD @ w.W_enc_DF > 0).double(), w)
    x_hat = decode(tanh_relu(pre(c * x_BD, w)), w)
    close(x_hat, last)
    assert bool((x_hat.norm(dim=1) / (c * x_BD).norm(dim=1) < 1e-4).all())
    close(squares(c * x_BD, w, tanh_relu) / (c * x_BD).square().sum(1), torch.ones(5), rtol=1e-3)


# The page


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not in the source distribution")
def test_the_page_names_exactly_these_tests() -> None:
    here = {name for name in globals() if name.startswith("test_")} - {"test_the_page_names_exactly_these_tests"}
    named = set(re.findall(r"\btest_(?!norm_theory)\w+", PAGE.read_text(encoding="utf-8")))
    assert named == here
