"""The definition of correct: the loss of an SAE written as its equation, the gradients left to autograd.

Letters: B tokens, D width, F features.

    z = x W_enc + b_enc (+ ε),   f = phi(z),   x̂ = f W_dec + b_dec
    loss = mean_B ||x̂ - x||² / ||x||^k  +  l1 · mean_B Σ_i w_i f_i,      w_i = ||W_dec_i||₂  or  1

f_i ||W_dec_i|| is the norm of feature i's contribution to x̂, so the (B, F, D) contributions are never built.
With a decoder of unit norm, the part of each row's gradient along the row is taken out, and an update puts the row
back on the sphere.

`dense`, `dense_bf16`, `cpu` and `gpu` compute the same `step`, `rows` and `gpu_adam` the same `adam`; this file is what
they are tested against.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """The four tensors of an SAE, or their gradients."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor


class Noise(NamedTuple):
    """ε ~ N(0, σ²) on the pre-activations of one step."""

    sigma: float
    key: int
    """Of the step: 64 bits, see `noise.noise_key`."""


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
    unit_norm: bool = False
    """Decoder rows have length 1, and their gradients no part along them."""


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
    gradient_square: float
    """Σ g² over the four gradients."""
    square_B: Tensor
    """||x̂ - x||² of each token, float64: what a caller needs to weigh tokens in its own way."""


class Adam(NamedTuple):
    """An update (Kingma & Ba 2015, algorithm 1)."""

    lr: float
    number: int
    """t, from 1: the means are corrected by 1 - β^t."""
    betas: tuple[float, float]
    shrink: float = 1.0
    """What the gradient is multiplied by, first: clipping."""
    unit_norm: bool = False
    """Decoder rows are brought back to length 1."""
    eps: float = 1e-8


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
        from unmix.kernels.noise import add_noise  # needs numba, which a machine with a GPU may lack

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
    if objective.unit_norm:
        g_FD = gradients.W_dec_FD
        g_FD -= W_dec_FD.detach() * (g_FD * W_dec_FD.detach()).sum(1, keepdim=True)
    active_F = (f_BF > 0).sum(0).to(x_BD.dtype)
    gradient_square = sum(g.square().sum(dtype=torch.float64).item() for g in gradients)
    square_B = square_B.detach().double()
    return Sums(square_B.sum().item(), reconstruction.item(), penalty.item(), active_F, gradient_square, square_B)


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """One update in place; `first` and `second` are the running means of the gradient and of its square.

    m ← β₁ m + (1-β₁) g,   v ← β₂ v + (1-β₂) g²,   W ← W - lr · (m / (1-β₁^t)) / (√(v / (1-β₂^t)) + eps)
    """
    b1, b2 = how.betas
    for W, g, m, v in zip(weights, gradients, first, second, strict=True):
        g = g * how.shrink
        m.mul_(b1).add_(g * (1 - b1))
        v.mul_(b2).add_(g * g * (1 - b2))
        W -= how.lr * (m / (1 - b1**how.number)) / ((v / (1 - b2**how.number)).sqrt() + how.eps)
    if how.unit_norm:
        weights.W_dec_FD.div_(weights.W_dec_FD.norm(dim=1, keepdim=True))
