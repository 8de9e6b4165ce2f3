"""The term `AuxK` by hand, from the error that a step leaves: products with the dead features alone."""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.dictionary.terms import AuxK
from unmix.kernels.task import Weights


def add_auxk(x_BD: Tensor, e_BE: Tensor, weights: Weights, gradients: Weights, coefficient: float, term: AuxK) -> float:
    """Add the term's gradients, (coefficient / B) d term; answer the term. e = y - ŷ of the whole batch."""
    dead_N, tokens = term.dead_N, len(x_BD)
    x_TD, e_TE = x_BD[:: term.stride], e_BE[:: term.stride]
    W_enc_ND, W_dec_NE = weights["W_enc"].T[dead_N], weights["W_dec"][dead_N]
    z_TN = torch.addmm(weights["b_enc"][dead_N], x_TD, W_enc_ND.T)
    top = z_TN.topk(min(term.k, len(dead_N)), dim=1)
    f_TN = torch.zeros_like(z_TN).scatter_(1, top.indices, top.values.relu_())
    r_TE = torch.mm(f_TN, W_dec_NE).sub_(e_TE)
    value = r_TE.square().sum(dtype=torch.float64).item() * tokens / len(x_TD)
    g_TE = r_TE.mul_(2 * coefficient / len(x_TD))
    dz_TN = torch.mm(g_TE, W_dec_NE.T).mul_(f_TN != 0)
    gradients["W_dec"].index_add_(0, dead_N, torch.mm(f_TN.T, g_TE))
    gradients["W_enc"].T.index_add_(0, dead_N, torch.mm(dz_TN.T, x_TD))
    gradients["b_enc"].index_add_(0, dead_N, dz_TN.sum(0))
    return value
