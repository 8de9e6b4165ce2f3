"""A pass without gradients: what a dictionary gives, summed as a step sums it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmix.kernels.reference import Objective, Sums, Weights, token_weights


def forward(x_BD: Tensor, weights: Weights, objective: Objective) -> Sums:
    """The sums of `reference.step` over these tokens, without noise; there is no gradient, its square is NaN."""
    f_BF = torch.addmm(weights.b_enc_F, x_BD, weights.W_enc_DF).relu_()
    if objective.phi == "tanh_relu":
        f_BF.tanh_()
    square_B = torch.addmm(weights.b_dec_D, f_BF, weights.W_dec_FD).sub_(x_BD).square_().sum(1, dtype=torch.float64)
    total_F = f_BF.sum(0, dtype=torch.float64)
    w_F = weights.W_dec_FD.norm(dim=1).double() if objective.weigh_by_norm else torch.ones_like(total_F)
    return Sums(
        squared_error=square_B.sum().item(),
        reconstruction=(square_B @ token_weights(x_BD, objective.norm_power).double()).item(),
        penalty=(total_F @ w_F).item(),
        active_F=(f_BF != 0).sum(0).to(x_BD.dtype),
        gradient_square=math.nan,
        square_B=square_B,
    )
