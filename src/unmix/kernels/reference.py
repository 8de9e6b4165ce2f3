"""The definition of correct: the loss of a relu SAE written as its equation, the gradients left to autograd.

Letters: B tokens, D width, F features.

    z = x W_enc + b_enc,   f = relu(z),   x̂ = f W_dec + b_dec
    loss = mean_B ||x̂ - x||²  +  l1 · mean_B Σ_i w_i f_i,      w_i = ||W_dec_i||₂  or  1

f_i ||W_dec_i|| is the norm of feature i's contribution to x̂, so the (B, F, D) contributions are never built.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """The four tensors of an SAE, or their gradients."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


class Sums(NamedTuple):
    """What a batch adds to the metrics: sums over its tokens."""

    squared_error: float
    """Σ_B ||x̂ - x||²."""
    penalty: float
    """Σ_B Σ_i w_i f_i, before the coefficient."""
    active_F: Tensor
    """Tokens of the batch on which each feature was active, float32 (exact below 2**24)."""


def step(x_BD: Tensor, weights: Weights, gradients: Weights, l1: float, *, weigh_by_norm: bool) -> Sums:
    """Write d loss / d weights into `gradients` and answer the sums of the batch."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = leaves = [w.detach().requires_grad_() for w in weights]
    f_BF = torch.relu(x_BD @ W_enc_DF + b_enc_F)
    error_BD = f_BF @ W_dec_FD + b_dec_D - x_BD
    w_F = W_dec_FD.norm(dim=1) if weigh_by_norm else torch.ones_like(b_enc_F)
    squared_error, penalty = error_BD.square().sum(), (f_BF * w_F).sum()
    loss = (squared_error + l1 * penalty) / len(x_BD)
    for target, gradient in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        target.copy_(gradient)
    return Sums(squared_error.item(), penalty.item(), (f_BF > 0).sum(0).to(x_BD.dtype))
