"""A step on a GPU where much is active: the five products by hand in plain torch, as in `dense.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import TanhRelu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels.gpu_sparse import Features, Found
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Task, Weights


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
    per_token, bounded = task.coefficient(L1) / len(x_BD), isinstance(task.phi, TanhRelu)
    norm_F = w_F if task.weigh_by_norm else torch.ones_like(w_F)
    r_B = task.error.weigh(x_BD)
    active_F, total_F = torch.zeros_like(norm_F), torch.zeros_like(norm_F)
    square_B = x_BD.new_empty(len(x_BD), dtype=torch.float64)
    for gradient in gradients.values():
        gradient.zero_()
    for first in range(0, len(x_BD), workspace.tile):
        x_TD, r_T = x_BD[first : first + workspace.tile], r_B[first : first + workspace.tile]
        f_TF = workspace.encode(x_TD, weights, task.noise, first).add_(weights["b_enc"]).relu_()
        active_F += (f_TF != 0).sum(0)  # NaN too
        if bounded:
            f_TF.tanh_()
        total_F += f_TF.sum(0)
        error_TE = torch.mm(f_TF, weights["W_dec"]).add_(weights["b_dec"]).sub_(y_BE[first : first + workspace.tile])
        torch.sum(error_TE.double().square(), 1, out=square_B[first : first + workspace.tile])
        g_TE = error_TE.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients["W_dec"].addmm_(f_TF.T, g_TE)
        gradients["b_dec"].add_(g_TE.sum(0))
        dz_TF = torch.mm(g_TE, weights["W_dec"].T).add_(norm_F * per_token)
        torch.ops.aten.threshold_backward.grad_input(dz_TF, f_TF, 0, grad_input=dz_TF)
        if bounded:
            dz_TF.addcmul_(dz_TF, f_TF.square_(), value=-1)
        gradients["W_enc"].T.addmm_(dz_TF.T, x_TD)
        gradients["b_enc"].add_(dz_TF.sum(0))
    if task.weigh_by_norm and task.has(L1):
        per_row_F = torch.where(norm_F > 0, total_F * per_token / norm_F, 0)
        gradients["W_dec"].addcmul_(weights["W_dec"], per_row_F[:, None])
    found = {SquaredError: (square_B * r_B).sum(), L1: (total_F * norm_F).sum(dtype=torch.float64)}
    features = Features(total_F, active_F, torch.zeros_like(total_F))
    nothing_1 = torch.zeros(1, dtype=torch.int64, device=x_BD.device)
    return Found(square_B, features, nothing_1, None, tuple(found[type(term)] for _, term in task.objective))
