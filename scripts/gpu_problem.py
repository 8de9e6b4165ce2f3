"""What `check_gpu.py` runs the kernels on, and the same numbers in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unmix.kernels.reference import Objective, Weights, token_weights


def formulas(
    x_BD: Tensor, weights: Weights, objective: Objective, z_BF: Tensor | None = None
) -> tuple[Weights, list[Tensor]]:
    """Gradients and sums of a step in plain torch, every (B, F) array whole; `z_BF` where it is known already."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = weights
    per_token = objective.l1 / len(x_BD)
    z_BF = x_BD @ W_enc_DF + b_enc_F if z_BF is None else z_BF
    f_BF = torch.relu(z_BF)
    if objective.phi == "tanh_relu":
        f_BF = torch.tanh(f_BF)
    error_BD = f_BF @ W_dec_FD + b_dec_D - x_BD
    square_B, r_B = error_BD.square().sum(1), token_weights(x_BD, objective.norm_power)
    g_BD = error_BD * (r_B * (2 / len(x_BD)))[:, None]
    w_F = W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(b_enc_F)
    dz_BF = (g_BD @ W_dec_FD.T + w_F * per_token) * (f_BF > 0)
    if objective.phi == "tanh_relu":
        dz_BF = dz_BF * (1 - f_BF * f_BF)
    dW_dec_FD = f_BF.T @ g_BD
    if objective.weigh_by_norm:
        dW_dec_FD = dW_dec_FD + W_dec_FD * (f_BF.sum(0) * per_token / w_F)[:, None]
    if objective.unit_norm:
        dW_dec_FD = dW_dec_FD - W_dec_FD * (dW_dec_FD * W_dec_FD).sum(1, keepdim=True)
    gradients = Weights((dz_BF.T @ x_BD).T, dz_BF.sum(0), dW_dec_FD, g_BD.sum(0))
    square = torch.stack([g.square().sum() for g in gradients]).sum()
    penalty = (f_BF * w_F).sum()
    return gradients, [square_B.sum(), (square_B * r_B).sum(), penalty, (f_BF > 0).sum(0), square, square_B]


def problem(B: int, D: int, F: int, active: float, device: str, skewed: bool = False) -> tuple[Tensor, Weights]:
    """Random inputs with about so many active features a token.

    Activations and encoder weights are small multiples of 1/8 and 1/64, so that z is exact in float32 and never 0:
    which features are active is no matter of rounding.
    """
    x_BD = torch.randint(-8, 9, (B, D), device=device).float() / 8
    W_enc_FD = torch.randint(-8, 9, (F, D), device=device).float() / 64
    spread = math.sqrt(D * 24 / 64 * 24 / 4096)  # of z: a multiple from -8 to 8 has variance 24
    share = torch.tensor(min(max(active / F, 1e-9), 1 - 1e-9), dtype=torch.float64)
    b_F = torch.full((F,), spread * torch.special.ndtri(share).item(), device=device)
    if skewed:
        b_F += 0.5 * spread * torch.randn(F, device=device)
        b_F[:8] = 10 * spread  # on every token
    W_dec_FD = torch.randn(F, D, device=device) / math.sqrt(D)
    return x_BD, Weights(W_enc_FD.T, (b_F * 512).round() / 512 + 1 / 1024, W_dec_FD, torch.randn(D, device=device))


def like(weights: Weights, value: float) -> Weights:
    """Tensors of the same shapes and layouts, full of one value."""
    return Weights(*(torch.full_like(w, value) for w in weights))


def away(out: Any, ref: Any) -> float:
    """||out - ref|| / ||ref||; NaN counts as infinitely far."""
    out, ref = torch.as_tensor(out).double().cpu(), torch.as_tensor(ref).double().cpu()
    far = ((out - ref).norm() / ref.norm().clamp_min(1e-300)).item() if ref.norm() else out.norm().item()
    return math.inf if math.isnan(far) else far
