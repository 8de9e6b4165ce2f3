"""docs/norms.md: coefficients that go with the norm, and scaling each token."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from norm_theory import (
    D,
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


@many
@given(seeds, st.floats(1e-2, 1e2), st.sampled_from([0, 1, 2]), st.floats(0.0, 3.0))
def test_matched_coefficient_makes_layers_comparable(seed: int, n: float, k: int, alpha: float) -> None:
    g = generator(seed)
    w, u_BD = dictionary(g), randn(g, 7, D)
    longer_relu = w | {"b_enc": n * w["b_enc"], "b_dec": n * w["b_dec"]}
    longer_bounded = w | {"W_enc": w["W_enc"] / n, "W_dec": n * w["W_dec"], "b_dec": n * w["b_dec"]}
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


def test_with_a_bias_dividing_the_error_keeps_the_length_visible() -> None:
    g = generator(0)
    w, x_BD = dictionary(g), randn(g, 50, D)
    assert not torch.equal(relu(10 * x_BD, w) > 0, relu(x_BD, w) > 0)
    assert torch.equal(relu(token_scaled(16 * x_BD), w) > 0, relu(token_scaled(x_BD), w) > 0)
