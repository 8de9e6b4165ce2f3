"""The dense step with its five products in bf16, sums in float32: half the time where there are instructions for it.

What enters a product is rounded to 8 binary digits, and so is what a tile of tokens makes of it; tiles are added in
float32, as are biases, counts and all sums. The mean μ of x over the batch, in which most of the length of a language
model's activations lies, is not rounded:

    z = (x - μ) W_enc + (b_enc + μ W_enc),        dW_enc = Σ_B dz (x - μ) + μ Σ_B dz

The equations are those of `dense` with phi = relu. (1 - f² of a tanh near 1 has no digit left in bf16.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels.bfloat16 import as_bits, narrowed, widened
from unmix.kernels.code_cache import numba
from unmix.kernels.rows import add_pull, moments
from unmix.kernels.task import Sums, Task, Weights

TILE_BYTES = 20 * 2**20  # of one (tile, F) array, of which there are two
_PART = 512  # features that a thread takes at a time, all tokens of the tile


class Workspace:
    """The bf16 arrays of one shape, made once."""

    def __init__(self, features: int, width: int, target_width: int) -> None:
        def low(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.bfloat16)

        self.tile = max(64, TILE_BYTES // (2 * features))
        self.f, self.dz = low(self.tile, features), low(self.tile, features)
        self.W_enc_FD, self.dW_enc_FD = low(features, width), low(features, width)
        self.W_dec_FE, self.dW_dec_FE = low(features, target_width), low(features, target_width)


def step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, workspace: Workspace) -> Sums:
    """As `reference.step`, within the rounding of bf16; for float32, phi = relu, and no noise."""
    b_enc_F, W_dec_FE, b_dec_E = weights["b_enc"], weights["W_dec"], weights["b_dec"]
    W_enc_FD, dW_enc_FD = weights["W_enc"].T, gradients["W_enc"].T
    B, F = len(x_BD), len(b_enc_F)
    low_enc_FD, low_dec_FE = workspace.W_enc_FD.copy_(W_enc_FD), workspace.W_dec_FE.copy_(W_dec_FE)
    mean_D = (moments(x_BD)[1] / B).to(x_BD.dtype)
    low_BD, b_shifted_F = (x_BD - mean_D).bfloat16(), torch.addmv(b_enc_F, W_enc_FD, mean_D)
    norm_F = W_dec_FE.norm(dim=1) if task.weigh_by_norm else torch.ones_like(b_enc_F)
    slope_F, r_B = norm_F * (task.coefficient(L1) / B), task.error.weigh(y_BE)
    active_F, total_F, db_enc_F = (np.zeros(F, np.float32) for _ in range(3))
    squared_error = reconstruction = 0.0
    square_B = torch.empty(len(x_BD), dtype=torch.float64)
    gradients["b_dec"].zero_()
    for start in range(0, B, workspace.tile):
        tile = slice(start, start + workspace.tile)
        x_TD, low_TD, r_T = x_BD[tile], low_BD[tile], r_B[tile]
        f_TF, dz_TF = workspace.f[: len(x_TD)], workspace.dz[: len(x_TD)]
        torch.mm(low_TD, low_enc_FD.T, out=f_TF)
        _activate(as_bits(f_TF), b_shifted_F.numpy(), active_F, total_F)
        error_TE = torch.mm(f_TF, low_dec_FE).float().add_(b_dec_E).sub_(y_BE[tile])
        square_T = square_B[start : start + workspace.tile]
        torch.sum(error_TE.square(), 1, dtype=torch.float64, out=square_T)
        squared_error += square_T.sum().item()
        reconstruction += (square_T @ r_T.double()).item()
        g_TE = error_TE.mul_((r_T * (2 / B))[:, None])
        gradients["b_dec"].add_(g_TE.sum(0))
        low_g_TE = g_TE.bfloat16()
        _add(gradients["W_dec"], torch.mm(f_TF.T, low_g_TE, out=workspace.dW_dec_FE), start)
        torch.mm(low_g_TE, low_dec_FE.T, out=dz_TF)
        _back(as_bits(dz_TF), as_bits(f_TF), slope_F.numpy(), db_enc_F)
        _add(dW_enc_FD, torch.mm(dz_TF.T, low_TD, out=workspace.dW_enc_FD), start)
    gradients["b_enc"].copy_(torch.from_numpy(db_enc_F))
    dW_enc_FD.addr_(gradients["b_enc"], mean_D)
    add_pull(weights, gradients, task, norm_F, total_F, len(x_BD))
    penalty = float(total_F.astype(np.float64) @ norm_F.numpy())
    return Sums(
        squared_error,
        terms=task.values({SquaredError: reconstruction, L1: penalty}),
        penalty=penalty,
        active_F=torch.from_numpy(active_F),
        square_B=square_B,
    )


def _add(gradient_FD: Tensor, part_FD: Tensor, start: int) -> None:
    """The part of a tile of tokens; that of the first one is all there is yet."""
    gradient_FD.add_(part_FD) if start else gradient_FD.copy_(part_FD)


@numba.njit(parallel=True, cache=True)
def _activate(z_TF: Any, b_F: Any, active_F: Any, total_F: Any) -> None:
    """x W -> f = relu(x W + b) in place, as bits; adds each feature's active tokens and its Σ f."""
    T, F = z_TF.shape
    for part in numba.prange((F + _PART - 1) // _PART):
        first, end = part * _PART, min(F, (part + 1) * _PART)
        for t in range(T):
            for i in range(first, end):
                z = widened(z_TF[t, i]) + b_F[i]
                active_F[i] += not (z <= 0)  # NaN counts as active, so that it shows
                f = np.float32(0) if z <= 0 else z
                z_TF[t, i] = narrowed(f)
                total_F[i] += f


@numba.njit(parallel=True, cache=True)
def _back(df_TF: Any, f_TF: Any, slope_F: Any, db_F: Any) -> None:
    """g W_decᵀ -> dz = (g W_decᵀ + slope) [f > 0] in place, as bits; adds Σ dz."""
    T, F = f_TF.shape
    for part in numba.prange((F + _PART - 1) // _PART):
        first, end = part * _PART, min(F, (part + 1) * _PART)
        for t in range(T):
            for i in range(first, end):
                dz = widened(df_TF[t, i]) + slope_F[i]
                bits = np.uint16(narrowed(dz) * np.uint16(f_TF[t, i] != 0))  # a choice is several times slower
                df_TF[t, i] = bits
                db_F[i] += widened(bits)
