"""A step on a GPU where much is active: the five products by hand in plain torch, as in `dense.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.reference import Objective, Weights


def dense(
    x_BD: Tensor,
    weights: Weights,
    gradients: Weights,
    objective: Objective,
    workspace: Workspace,
    norm_F: Tensor,
    r_B: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fills `gradients`; answers ||x̂ - x||² (B,), Σ_B f (F,), active tokens (F,) and Σ g² over the four gradients.

    Where the batch is one tile, its z is in the workspace already.
    """
    per_token = objective.l1 / len(x_BD)
    bounded = objective.phi == "tanh_relu"
    active_F, total_F = torch.zeros_like(norm_F), torch.zeros_like(norm_F)
    square_B = x_BD.new_empty(len(x_BD), dtype=torch.float64)
    for gradient in gradients:
        gradient.zero_()
    for first in range(0, len(x_BD), workspace.tile):
        x_TD, r_T = x_BD[first : first + workspace.tile], r_B[first : first + workspace.tile]
        whole = len(x_TD) == len(x_BD)  # z is in place
        f_TF = workspace.rows(len(x_BD)) if whole else workspace.encode(x_BD, weights, objective.noise, first)
        f_TF.add_(weights.b_enc_F).relu_()
        active_F += (f_TF != 0).sum(0)  # NaN too
        if bounded:
            f_TF.tanh_()
        total_F += f_TF.sum(0)
        error_TD = torch.mm(f_TF, weights.W_dec_FD).add_(weights.b_dec_D).sub_(x_TD)
        torch.sum(error_TD.double().square(), 1, out=square_B[first : first + workspace.tile])
        g_TD = error_TD.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients.W_dec_FD.addmm_(f_TF.T, g_TD)
        gradients.b_dec_D.add_(g_TD.sum(0))
        dz_TF = torch.mm(g_TD, weights.W_dec_FD.T).add_(norm_F * per_token)
        torch.ops.aten.threshold_backward.grad_input(dz_TF, f_TF, 0, grad_input=dz_TF)
        if bounded:
            dz_TF.addcmul_(dz_TF, f_TF.square_(), value=-1)
        gradients.W_enc_DF.T.addmm_(dz_TF.T, x_TD)
        gradients.b_enc_F.add_(dz_TF.sum(0))
    if objective.weigh_by_norm and objective.l1:
        per_row_F = torch.where(norm_F > 0, total_F * per_token / norm_F, 0)
        gradients.W_dec_FD.addcmul_(weights.W_dec_FD, per_row_F[:, None])
    if objective.unit_norm:
        along_F1 = (gradients.W_dec_FD * weights.W_dec_FD).sum(1, keepdim=True)
        gradients.W_dec_FD.addcmul_(weights.W_dec_FD, along_F1, value=-1)
    gradient_square = torch.stack([_square(gradient) for gradient in gradients]).sum()
    return square_B, total_F, active_F, gradient_square


def _square(gradient: Tensor) -> Tensor:
    """Σ g² in float64, a stretch at a time: no copy of the whole in float64."""
    flat = (gradient if gradient.is_contiguous() else gradient.T).view(-1)
    return torch.stack([part.double().square().sum() for part in torch.split(flat, 2**24)]).sum()
