"""The terms that revive dead features by hand: products with these features alone.

A term is answered in float64, (), on the device, which nothing here waits for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.dictionary.terms import AuxK, PreActivation
from unmix.kernels.task import Weights

TILE = 2**20  # entries of z at once


def add_auxk(
    x_BD: Tensor, y_BE: Tensor, e_BE: Tensor, weights: Weights, gradients: Weights, coefficient: float, term: AuxK
) -> Tensor:
    """Add the gradients of an `AuxK`, (coefficient / B) d term; answer the term. e = y - ŷ of the whole batch."""
    dead_N, tokens = term.dead_N, len(x_BD)
    x_TD, e_TE = x_BD[:: term.stride], e_BE[:: term.stride]
    weight_T1 = term.error.weigh(y_BE[:: term.stride])[:, None]
    W_enc_ND, W_dec_NE = weights["W_enc"].T[dead_N], weights["W_dec"][dead_N]
    z_TN = torch.addmm(weights["b_enc"][dead_N], x_TD, W_enc_ND.T)
    taken_TN = term.takes(z_TN, W_dec_NE)
    f_TN = (z_TN if term.both_signs else z_TN.relu_()).mul_(taken_TN)
    r_TE = torch.mm(f_TN, W_dec_NE).sub_(e_TE)
    value = r_TE.square().mul_(weight_T1).sum(dtype=torch.float64) * tokens / len(x_TD)
    g_TE = r_TE.mul_(weight_T1 * (2 * coefficient / len(x_TD)))
    dz_TN = torch.mm(g_TE, W_dec_NE.T).mul_(f_TN != 0)
    gradients["W_dec"].index_add_(0, dead_N, torch.mm(f_TN.T, g_TE))
    gradients["W_enc"].T.index_add_(0, dead_N, torch.mm(dz_TN.T, x_TD))
    gradients["b_enc"].index_add_(0, dead_N, dz_TN.sum(0))
    return value


def add_preactivation(
    x_BD: Tensor, weights: Weights, gradients: Weights, coefficient: float, term: PreActivation
) -> Tensor:
    """The same of a `PreActivation`, a tile of tokens after another: all features may be dead."""
    dead_N, each = term.dead_N, coefficient / len(x_BD)
    W_enc_ND, W_dec_NE, b_N = weights["W_enc"].T[dead_N], weights["W_dec"][dead_N], weights["b_enc"][dead_N]
    below_N, lack_N, x_ND = torch.zeros_like(b_N), torch.zeros_like(b_N), torch.zeros_like(W_enc_ND)
    if "threshold" in weights:
        b_N = b_N - weights["threshold"][dead_N]
    for x_TD in torch.split(x_BD, max(1, TILE // max(1, len(dead_N)))):
        lack_TN = torch.addmm(b_N, x_TD, W_enc_ND.T).neg_().relu_()
        lack_N += lack_TN.sum(0)
        below_TN = lack_TN.sign_()
        below_N += below_TN.sum(0)
        x_ND.addmm_(below_TN.T, x_TD)
    w_N = W_dec_NE.norm(dim=1)
    gradients["W_enc"].T.index_add_(0, dead_N, x_ND * (-each * w_N)[:, None])
    gradients["b_enc"].index_add_(0, dead_N, -each * w_N * below_N)
    if "threshold" in weights:
        gradients["threshold"].index_add_(0, dead_N, each * w_N * below_N)
    along_N = torch.where(w_N > 0, each * lack_N / w_N, 0)  # a row of norm 0 has no direction
    gradients["W_dec"].index_add_(0, dead_N, W_dec_NE * along_N[:, None])
    value: Tensor = lack_N.double() @ w_N.double()
    return value
