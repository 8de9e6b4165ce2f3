"""Passes over the weights, a row of a feature at a time: their norms, the last touches to a gradient, and Adam.

`adam` is `reference.adam` in one pass: a number's gradient, two moments and weight are read once, the moments and the
weight written once; clipping and the length of decoder rows are seen to on the way. Each row is one thread's, so the
results do not depend on how many threads there are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.terms import L1
from unmix.kernels.code_cache import numba
from unmix.kernels.task import Adam, Task, Weights

SUMS = {"reassoc", "contract", "nsz"}  # may reorder a sum into vector lanes; may not assume away NaN
_PARTS = 16  # that tokens are cut into for a sum over them


@numba.njit(cache=True, fastmath=SUMS, inline="always")
def dot(a_D: Any, b_D: Any) -> Any:
    """a · b."""
    total = a_D.dtype.type(0)
    for d in range(len(a_D)):
        total += a_D[d] * b_D[d]
    return total


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """As `reference.adam`; agrees with it up to rounding."""
    (b1, b2), t = how.betas, how.number
    for name in weights:
        numbers = how.shrink, b1, 1 - b1, b2, 1 - b2, how.rate(name) / (1 - b1**t), 1 / math.sqrt(1 - b2**t), how.eps
        with np.errstate(over="ignore"):  # a rate beyond the number format: what comes of it is seen in the next loss
            numbers_P = np.array(numbers).astype(weights["b_enc"].numpy().dtype)
        rows = [_as_rows(name, kept[name]) for kept in (weights, gradients, first, second)]
        _rows(rows[0], rows[1], rows[2], rows[3], numbers_P, how.unit_norm and name == "W_dec")


def _as_rows(name: str, tensor: Tensor) -> Any:
    return tensor.T.numpy() if name == "W_enc" else tensor.numpy().reshape(-1, tensor.shape[-1])


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _rows(W_ND: Any, g_ND: Any, m_ND: Any, v_ND: Any, numbers_P: Any, unit_norm: bool) -> None:
    N, D = W_ND.shape
    shrink, b1, of_g, b2 = numbers_P[0], numbers_P[1], numbers_P[2], numbers_P[3]
    of_square, lr, v_scale, eps = numbers_P[4], numbers_P[5], numbers_P[6], numbers_P[7]
    for n in numba.prange(N):
        W_D, g_D, m_D, v_D = W_ND[n], g_ND[n], m_ND[n], v_ND[n]
        for d in range(D):
            g = g_D[d] * shrink
            m = b1 * m_D[d] + of_g * g
            v = b2 * v_D[d] + of_square * (g * g)
            m_D[d], v_D[d] = m, v
            W_D[d] -= lr * m / (v_scale * np.sqrt(v) + eps)
        if unit_norm:
            square = W_D.dtype.type(0)
            for d in range(D):
                square += W_D[d] * W_D[d]
            length = np.sqrt(square)
            for d in range(D):
                W_D[d] /= length


def row_norms(W_ND: Any) -> Any:
    """||W_n||₂ of every row."""
    norm_N = np.empty(len(W_ND), W_ND.dtype)
    _row_norms(W_ND, norm_N)
    return norm_N


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _row_norms(W_ND: Any, norm_N: Any) -> None:
    for n in numba.prange(len(W_ND)):
        square = W_ND.dtype.type(0)
        for d in range(W_ND.shape[1]):
            square += W_ND[n, d] * W_ND[n, d]
        norm_N[n] = np.sqrt(square)


def add_pull(weights: Weights, gradients: Weights, task: Task, norm_F: Tensor, total_F: Any, tokens: int) -> None:
    """dW_dec_i += (l1/B) (Σ_B f_i) W_dec_i / ||W_dec_i||, `total_F` being Σ_B f: a penalty weighed by norms."""
    if task.weigh_by_norm:  # a row of norm 0 has no direction to be pulled in
        pull_F = torch.where(norm_F > 0, torch.from_numpy(total_F) * (task.coefficient(L1) / tokens) / norm_F, 0)
        _add_pull(weights["W_dec"].numpy(), gradients["W_dec"].numpy(), pull_F.numpy())


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _add_pull(W_FE: Any, g_FE: Any, pull_F: Any) -> None:
    for i in numba.prange(len(W_FE)):
        W_E, g_E, pull = W_FE[i], g_FE[i], pull_F[i]
        for d in range(len(W_E)):
            g_E[d] += pull * W_E[d]


def finish(weights: Weights, gradients: Weights, unit_norm: bool) -> float:
    """As `reference.finish`."""
    square = sum(g.square().sum(dtype=torch.float64).item() for g in gradients.values() if g.dim() == 1)
    for name in ("W_enc", "W_dec"):
        W_FD, g_FD = (_as_rows(name, kept[name]) for kept in (weights, gradients))
        square_F = np.empty(len(W_FD))
        _finish(W_FD, g_FD, unit_norm and name == "W_dec", square_F)
        square += float(square_F.sum())
    return square


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _finish(W_FD: Any, g_FD: Any, unit_norm: bool, square_F: Any) -> None:
    for i in numba.prange(len(W_FD)):
        W_D, g_D = W_FD[i], g_FD[i]
        if unit_norm:
            along = dot(g_D, W_D)
            for d in range(len(W_D)):
                g_D[d] -= along * W_D[d]
        square_F[i] = dot(g_D, g_D)


def moments(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_B x² and Σ_B x, (D,), summed in float64, in one pass."""
    x_BD = x_BD.contiguous()
    square_PD, sum_PD = np.empty((_PARTS, x_BD.shape[1])), np.empty((_PARTS, x_BD.shape[1]))
    _moments(x_BD.numpy(), square_PD, sum_PD)
    return torch.from_numpy(square_PD.sum(0)), torch.from_numpy(sum_PD.sum(0))


@numba.njit(parallel=True, cache=True)
def _moments(x_BD: Any, square_PD: Any, sum_PD: Any) -> None:
    parts, B = len(square_PD), len(x_BD)
    for part in numba.prange(parts):
        square_D, sum_D = square_PD[part], sum_PD[part]
        for d in range(x_BD.shape[1]):
            square_D[d] = sum_D[d] = 0.0
        for t in range(part * B // parts, (part + 1) * B // parts):
            for d in range(x_BD.shape[1]):
                x = np.float64(x_BD[t, d])
                square_D[d] += x * x
                sum_D[d] += x
