"""The same step as `reference`, by hand: five matrix products, tiles of tokens, memory that is kept.

    g = (2/B) (ŷ - y) / ||y||^k                        dW_dec = fᵀ g  (+ penalty through the norm),  db_dec = Σ g
    dz = (g W_decᵀ + (l1/B) w) · phi'(z)               dW_enc = xᵀ dz,                                db_enc = Σ dz

phi' is [f > 0] for relu and [f > 0] (1 - f²) for tanh(relu). With w_i = ||W_dec_i||, the penalty adds
(l1/B) (Σ_B f_i) W_dec_i / ||W_dec_i|| to dW_dec. Autograd would pay more passes over the (B, F) arrays; a tile of
tokens keeps them in cache, and memory does not grow with the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import TanhRelu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels.code_cache import numba
from unmix.kernels.noise import add_noise
from unmix.kernels.rows import add_pull
from unmix.kernels.task import Sums, Task, Weights

TILE_BYTES = 32 * 2**20  # of one (tile, F) array, of which there are two; in smaller ones the products are slower
_PART = 512  # features that a thread takes at a time, all tokens of the tile


class Workspace:
    """The (tile, F) arrays of one shape, made once."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.tile = max(64, TILE_BYTES // (4 * features))
        self.f = like.new_empty(self.tile, features)
        self.dz = like.new_empty(self.tile, features)


def step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    W_enc_DF, b_enc_F, W_dec_FE, b_dec_E = (weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    per_token = task.coefficient(L1) / len(x_BD)
    norm_F = W_dec_FE.norm(dim=1) if task.weigh_by_norm else torch.ones_like(b_enc_F)
    active_F, total_F = np.zeros(len(b_enc_F), norm_F.numpy().dtype), np.zeros(len(b_enc_F), norm_F.numpy().dtype)
    bounded, db_enc_F = isinstance(task.phi, TanhRelu), gradients["b_enc"].numpy()
    r_B = task.error.weigh(y_BE)
    squared_error = reconstruction = 0.0
    square_B = torch.empty(len(x_BD), dtype=torch.float64)
    for gradient in gradients.values():
        gradient.zero_()
    for start in range(0, len(x_BD), workspace.tile):
        x_TD, r_T = x_BD[start : start + workspace.tile], r_B[start : start + workspace.tile]
        f_TF, dz_TF = workspace.f[: len(x_TD)], workspace.dz[: len(x_TD)]
        torch.addmm(b_enc_F, x_TD, W_enc_DF, out=f_TF)
        if task.noise:
            add_noise(f_TF.numpy(), task.noise, start)
        _activate(f_TF.numpy(), bounded, active_F, total_F)
        if bounded:
            total_F += f_TF.tanh_().sum(0).numpy()  # PyTorch's is several times as fast as a loop's
        error_TE = torch.addmm(b_dec_E, f_TF, W_dec_FE).sub_(y_BE[start : start + workspace.tile])
        square_T = square_B[start : start + workspace.tile]
        torch.sum(error_TE.square(), 1, dtype=torch.float64, out=square_T)
        squared_error += square_T.sum().item()
        reconstruction += (square_T @ r_T.double()).item()
        g_TE = error_TE.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients["W_dec"].addmm_(f_TF.T, g_TE)
        gradients["b_dec"].add_(g_TE.sum(0))
        torch.mm(g_TE, W_dec_FE.T, out=dz_TF)
        _back(dz_TF.numpy(), f_TF.numpy(), (norm_F * per_token).numpy(), bounded, db_enc_F)
        gradients["W_enc"].addmm_(x_TD.T, dz_TF)
    add_pull(weights, gradients, task, norm_F, total_F, len(x_BD))
    penalty = float(total_F.astype(np.float64) @ norm_F.numpy())
    return Sums(
        squared_error,
        terms=task.values({SquaredError: reconstruction, L1: penalty}),
        penalty=penalty,
        active_F=torch.from_numpy(active_F),
        square_B=square_B,
    )


@numba.njit(parallel=True, cache=True)
def _activate(z_TF: Any, bounded: bool, active_F: Any, total_F: Any) -> None:
    """z -> relu(z) in place; adds each feature's active tokens, and unless a tanh is to come, its Σ f."""
    T, F = z_TF.shape
    for part in numba.prange((F + _PART - 1) // _PART):
        first, end = part * _PART, min(F, (part + 1) * _PART)
        for t in range(T):
            for i in range(first, end):
                z = z_TF[t, i]
                active_F[i] += not (z <= 0)  # NaN counts as active, so that it shows
                f = z_TF.dtype.type(0) if z <= 0 else z
                z_TF[t, i] = f
                if not bounded:
                    total_F[i] += f


@numba.njit(parallel=True, cache=True)
def _back(df_TF: Any, f_TF: Any, slope_F: Any, bounded: bool, db_F: Any) -> None:
    """g W_decᵀ -> dz = (g W_decᵀ + slope) phi' in place; adds Σ dz."""
    T, F = f_TF.shape
    for part in numba.prange((F + _PART - 1) // _PART):
        first, end = part * _PART, min(F, (part + 1) * _PART)
        for t in range(T):
            for i in range(first, end):
                f = f_TF[t, i]
                dz = df_TF[t, i] + slope_F[i]
                dz = dz * (1 - f * f) if bounded else dz
                dz = f_TF.dtype.type(0) if f == 0 else dz
                df_TF[t, i] = dz
                db_F[i] += dz
