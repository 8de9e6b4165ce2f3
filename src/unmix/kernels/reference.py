"""The definition of correct: the loss of an SAE written as its equation, the gradients left to autograd.

Letters: B tokens, D width, F features.

    z = x W_enc + b_enc (+ ε),   f = phi(z),   x̂ = f W_dec + b_dec
    loss = mean_B ||x̂ - x||² / ||x||^k  +  l1 · mean_B Σ_i w_i f_i,      w_i = ||W_dec_i||₂  or  1

f_i ||W_dec_i|| is the norm of feature i's contribution to x̂, so the (B, F, D) contributions are never built.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmix.kernels.noise import Noise, add_noise


class Weights(NamedTuple):
    """The four tensors of an SAE, or their gradients."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


class Objective(NamedTuple):
    """What a step minimises."""

    l1: float
    phi: Literal["relu", "tanh_relu"] = "relu"
    """relu(z), or tanh(relu(z))."""
    weigh_by_norm: bool = True
    """w_i = ||W_dec_i||; else 1."""
    norm_power: int = 0
    """k: the squared error of a token is divided by ||x||^k."""
    noise: Noise | None = None
    """ε; none outside training."""


class Sums(NamedTuple):
    """What a batch adds to the metrics: sums over its tokens."""

    squared_error: float
    """Σ_B ||x̂ - x||²."""
    reconstruction: float
    """Σ_B ||x̂ - x||² / ||x||^k: the term of the loss."""
    penalty: float
    """Σ_B Σ_i w_i f_i, before the coefficient."""
    active_F: Tensor
    """Tokens of the batch on which each feature was active, float32 (exact below 2**24)."""


def token_weights(x_BD: Tensor, norm_power: int) -> Tensor:
    """1 / ||x||^k, (B,); 0 for a token of length 0, which has no direction to give back."""
    if norm_power == 0:
        return x_BD.new_ones(len(x_BD))
    norm_B = x_BD.norm(dim=1)
    return torch.where(norm_B == 0, 0, norm_B ** (-norm_power))


def step(x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
    """Write d loss / d weights into `gradients` and answer the sums of the batch."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = leaves = [w.detach().requires_grad_() for w in weights]
    z_BF = x_BD @ W_enc_DF + b_enc_F
    if objective.noise:
        noise_BF = torch.zeros_like(z_BF)
        add_noise(noise_BF.numpy(), objective.noise, 0)
        z_BF = z_BF + noise_BF
    f_BF = torch.relu(z_BF)
    if objective.phi == "tanh_relu":
        f_BF = torch.tanh(f_BF)
    square_B = (f_BF @ W_dec_FD + b_dec_D - x_BD).square().sum(1)
    w_F = W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(b_enc_F)
    reconstruction = (square_B * token_weights(x_BD, objective.norm_power)).sum()
    penalty = (f_BF * w_F).sum()
    loss = (reconstruction + objective.l1 * penalty) / len(x_BD)
    for target, gradient in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        target.copy_(gradient)
    active_F = (f_BF > 0).sum(0).to(x_BD.dtype)
    return Sums(square_B.sum().item(), reconstruction.item(), penalty.item(), active_F)
