"""The same step as `reference`, by hand: five matrix products, tiles of tokens, memory that is kept.

    g = (2/B) (x̂ - x) / ||x||^k                        dW_dec = fᵀ g  (+ penalty through the norm),  db_dec = Σ g
    dz = (g W_decᵀ + (l1/B) w) · phi'(z)               dW_enc = xᵀ dz,                                db_enc = Σ dz

phi' is [f > 0] for relu and [f > 0] (1 - f²) for tanh(relu). With w_i = ||W_dec_i||, the penalty adds
(l1/B) (Σ_B f_i) W_dec_i / ||W_dec_i|| to dW_dec. Autograd would pay more passes over the (B, F) arrays; a tile of
tokens keeps them in cache, and memory does not grow with the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.kernels.noise import add_noise
from unmix.kernels.reference import Objective, Sums, Weights, token_weights

TILE_BYTES = 8 * 2**20  # of one (tile, F) array; two of them are live


class Workspace:
    """The (tile, F) arrays of one shape, made once."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.tile = max(64, TILE_BYTES // (4 * features))
        self.f = like.new_empty(self.tile, features)
        self.dz = like.new_empty(self.tile, features)
        self.ones = like.new_ones(1, self.tile)


def step(x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = weights
    per_token = objective.l1 / len(x_BD)
    norm_F = W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(b_enc_F)
    active_1F, total_1F = torch.zeros_like(b_enc_F)[None], torch.zeros_like(b_enc_F)[None]
    r_B = token_weights(x_BD, objective.norm_power)
    squared_error = reconstruction = 0.0
    for gradient in gradients:
        gradient.zero_()
    for start in range(0, len(x_BD), workspace.tile):
        x_TD, r_T = x_BD[start : start + workspace.tile], r_B[start : start + workspace.tile]
        t = len(x_TD)
        f_TF, dz_TF, ones_1T = workspace.f[:t], workspace.dz[:t], workspace.ones[:, :t]
        torch.addmm(b_enc_F, x_TD, W_enc_DF, out=f_TF)
        if objective.noise:
            add_noise(f_TF.numpy(), objective.noise, start)
        f_TF.relu_()
        torch.ne(f_TF, 0, out=dz_TF)  # NaN counts as active: it is to be seen
        active_1F.addmm_(ones_1T, dz_TF)
        if objective.phi == "tanh_relu":
            f_TF.tanh_()
        total_1F.addmm_(ones_1T, f_TF)
        error_TD = torch.addmm(b_dec_D, f_TF, W_dec_FD).sub_(x_TD)
        square_T = error_TD.square().sum(1, dtype=torch.float64)
        squared_error += square_T.sum().item()
        reconstruction += (square_T @ r_T.double()).item()
        g_TD = error_TD.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients.W_dec_FD.addmm_(f_TF.T, g_TD)
        gradients.b_dec_D.add_(g_TD.sum(0))
        torch.addmm(norm_F * per_token, g_TD, W_dec_FD.T, out=dz_TF)
        torch.ops.aten.threshold_backward.grad_input(dz_TF, f_TF, 0, grad_input=dz_TF)
        if objective.phi == "tanh_relu":
            dz_TF.addcmul_(dz_TF, f_TF.square_(), value=-1)
        gradients.W_enc_DF.addmm_(x_TD.T, dz_TF)
        gradients.b_enc_F[None].addmm_(ones_1T, dz_TF)
    if objective.weigh_by_norm and objective.l1:
        # a row of norm 0 has no direction to be pulled in
        per_row_F = torch.where(norm_F > 0, total_1F[0] * per_token / norm_F, 0)
        gradients.W_dec_FD.addcmul_(weights.W_dec_FD, per_row_F[:, None])
    penalty = (total_1F[0] * norm_F).sum(dtype=torch.float64).item()
    return Sums(squared_error, reconstruction, penalty, active_1F[0])
