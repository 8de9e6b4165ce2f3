"""The equations of docs/norms.md on a small dictionary, in float64."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from unmix.kernels.task import Weights

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
    return {
        "W_enc": randn(g, D, F),
        "b_enc": bias * randn(g, F),
        "W_dec": randn(g, F, D),
        "b_dec": bias * randn(g, D),
    }


def tanh_relu(z: Tensor) -> Tensor:
    return torch.tanh(torch.relu(z))


def pre(x_BD: Tensor, w: Weights) -> Tensor:
    return x_BD @ w["W_enc"] + w["b_enc"]


def relu(x_BD: Tensor, w: Weights) -> Tensor:
    return torch.relu(pre(x_BD, w))


def decode(f_BF: Tensor, w: Weights) -> Tensor:
    return f_BF @ w["W_dec"] + w["b_dec"]


def squares(x_BD: Tensor, w: Weights, phi=torch.relu) -> Tensor:
    """||x̂ - x||² of each token."""
    return (decode(phi(pre(x_BD, w)), w) - x_BD).square().sum(-1)


def penalties(x_BD: Tensor, w: Weights, phi=torch.relu, *, weigh: bool = False) -> Tensor:
    """Σ_i w_i f_i of each token, w_i = ||W_dec_i|| or 1."""
    return (phi(pre(x_BD, w)) * (w["W_dec"].norm(dim=1) if weigh else 1.0)).sum(-1)


def losses(x_BD: Tensor, w: Weights, l1: float, k: int = 0, phi=torch.relu, *, weigh: bool = False) -> Tensor:
    return squares(x_BD, w, phi) / x_BD.norm(dim=-1) ** k + l1 * penalties(x_BD, w, phi, weigh=weigh)


def close(a: Tensor | float, b: Tensor | float, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
