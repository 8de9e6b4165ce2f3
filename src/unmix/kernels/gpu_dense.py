"""A step on a GPU where much is active: the five products by hand in plain torch, as in `dense.py`.

For a jumprelu, whose slopes are those of `gpu_sparse`, with some more (tokens, F) arrays on the way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, TanhRelu
from unmix.dictionary.terms import L0, L1, L0Target, SquaredError, Tanh
from unmix.kernels.gpu_sparse import Features, Found, one_more
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Task, Weights

JUMPS = 4  # a tile of a jumprelu is so many times smaller


def dense(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    workspace: Workspace,
    w_F: Tensor,
    stop_1: Tensor,
) -> Found:
    """Fills `gradients`. It has no need of room, and goes on whatever `stop` says: nothing comes of it."""
    per_token, phi = task.coefficient(L1) / len(x_BD), task.phi
    norm_F = w_F if task.weigh_by_norm else torch.ones_like(w_F)
    r_B, tanh = task.error.weigh(y_BE), task.term(Tanh)
    active_F, total_F, tanh_F, pulled_F = (torch.zeros_like(norm_F) for _ in range(4))
    square_B, active_B = (x_BD.new_empty(len(x_BD), dtype=torch.float64) for _ in range(2))
    for gradient in gradients.values():
        gradient.zero_()
    tile = max(1, workspace.tile // JUMPS) if isinstance(phi, JumpRelu) else workspace.tile
    for first in range(0, len(x_BD), tile):
        part = slice(first, first + tile)
        x_TD, r_T = x_BD[part], r_B[part]
        z_TF = workspace.encode(x_TD, weights, task.noise, first).add_(weights["b_enc"])
        f_TF = torch.where(z_TF <= weights["threshold"], 0, z_TF) if isinstance(phi, JumpRelu) else z_TF.relu_()
        there_TF = f_TF != 0  # NaN too
        active_F += there_TF.sum(0)
        active_B[part] = there_TF.sum(1)
        if isinstance(phi, TanhRelu):
            f_TF.tanh_()
        total_F += f_TF.sum(0)
        error_TE = torch.mm(f_TF, weights["W_dec"]).add_(weights["b_dec"]).sub_(y_BE[part])
        torch.sum(error_TE.double().square(), 1, out=square_B[part])
        g_TE = error_TE.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients["W_dec"].addmm_(f_TF.T, g_TE)
        gradients["b_dec"].add_(g_TE.sum(0))
        dz_TF = torch.mm(g_TE, weights["W_dec"].T).add_(norm_F * per_token)
        if isinstance(tanh, Tanh):
            tanh_TF = torch.tanh(f_TF * (w_F * tanh.scale))
            slope_TF = 1 - tanh_TF.square()
            tanh_F += tanh_TF.sum(0)
            pulled_F += (slope_TF * f_TF).sum(0)
            dz_TF += slope_TF * (w_F * (tanh.scale * task.coefficient(Tanh) / len(x_BD)))
        if isinstance(phi, JumpRelu):
            theta_F = weights["threshold"]
            near_TF = (((z_TF - theta_F) / phi.bandwidth).abs() < 0.5).to(z_TF.dtype)
            jump_TF = near_TF * (theta_F * dz_TF)
            counted_T = one_more(task, active_B[part], len(x_BD)).to(z_TF.dtype)
            gradients["threshold"].sub_((jump_TF.sum(0) + counted_T @ near_TF) / phi.bandwidth)
            dz_TF = torch.where(there_TF, dz_TF, 0)
            if phi.to_input:
                dz_TF += jump_TF / phi.bandwidth
        else:
            torch.ops.aten.threshold_backward.grad_input(dz_TF, f_TF, 0, grad_input=dz_TF)
        if isinstance(phi, TanhRelu):
            dz_TF.addcmul_(dz_TF, f_TF.square_(), value=-1)
        gradients["W_enc"].T.addmm_(dz_TF.T, x_TD)
        gradients["b_enc"].add_(dz_TF.sum(0))
    if task.weigh_by_norm and task.has(L1):
        per_row_F = torch.where(norm_F > 0, total_F * per_token / norm_F, 0)
        gradients["W_dec"].addcmul_(weights["W_dec"], per_row_F[:, None])
    if isinstance(tanh, Tanh):
        per_row_F = pulled_F * (tanh.scale * task.coefficient(Tanh) / len(x_BD))
        gradients["W_dec"].addcmul_(weights["W_dec"], torch.where(w_F > 0, per_row_F / w_F, 0)[:, None])
    found: dict[type, Any] = {
        SquaredError: (square_B * r_B).sum(),
        L1: (total_F * norm_F).sum(dtype=torch.float64),
        L0: active_F.sum(dtype=torch.float64),
        Tanh: tanh_F.sum(dtype=torch.float64),
    }
    if isinstance(target := task.term(L0Target), L0Target):
        found[L0Target] = 2 / target.target * (active_B - target.target).square().sum()
    nothing_1 = torch.zeros(1, dtype=torch.int64, device=x_BD.device)
    terms = tuple(found[type(term)] for _, term in task.objective)
    return Found(square_B, Features(total_F, active_F, tanh_F), nothing_1, None, terms)
