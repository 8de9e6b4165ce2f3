"""The same step as `reference` for few active features: after the encoder's product, only what is active is touched.

    1  z = x W_enc + b_enc, a tile of features at a time; where it is positive is kept as sparse rows (CSR)
    2  per token:    x̂ from the decoder rows of its active features, g = (2/B)(x̂ - x) / ||x||^k, and for each of
                     them dz_i = (g · W_dec_i + (l1/B) w_i) phi'_i
    3  per feature:  the tokens on which it was active (CSC) give dW_dec_i = Σ f g, dW_enc_i = Σ dz x

One of the five dense products stays, and it need not be exact: in bf16 or int8 (`select`) it only says which features
may be active, and their z are computed in fp32; what is not positive then is dropped. With noise it is in fp32.

Every sum of these kernels is one thread's, in a fixed order, so it does not depend on the number of threads; torch's
product of fp32 or bf16 may, by rounding. NaN counts as active, so that it is seen and not dropped. The arrays are kept
from step to step.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unmix.kernels import select
from unmix.kernels.reference import Objective, Sums, Weights, token_weights
from unmix.kernels.rows import SUMS, dot, row_norms

TILE_BYTES = 16 * 2**20  # of the encoder's product for a tile of features and all tokens: to stay in cache
_PARTS = 64  # that the features are cut into, of equal work


class Workspace:
    """The arrays of a step. Those with an entry per active feature grow to the most that were ever active."""

    def __init__(self, select: select.Precision = "fp32", tile_bytes: int = TILE_BYTES) -> None:
        self.select, self.tile_bytes = select, tile_bytes
        self._kept: dict[str, Any] = {}

    def array(self, name: str, length: int, dtype: Any) -> Any:
        """The first `length` numbers of an array; what was in it stays when it has to grow, unless the dtype is new."""
        kept = self._kept.get(name)
        if kept is None or kept.dtype != dtype:
            kept = np.empty(0, dtype)
        if len(kept) < length:
            grown = np.empty(length + length // 4, dtype)
            grown[: len(kept)] = kept
            self._kept[name] = kept = grown
        return kept[:length]

    def tensor(self, name: str, length: int, dtype: torch.dtype) -> Tensor:
        """The same of a tensor, whatever is in it."""
        kept = self._kept.get(name)
        if kept is None or len(kept) < length or kept.dtype != dtype:
            self._kept[name] = kept = torch.empty(length, dtype=dtype)
        made: Tensor = kept[:length]
        return made


def step(x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    (B, D), F = x_BD.shape, len(weights.b_enc_F)
    x_BD = x_BD.contiguous()
    number = x_BD.numpy().dtype
    per_token = number.type(objective.l1 / B)
    W_dec_FD, b_dec_D = weights.W_dec_FD.numpy(), weights.b_dec_D.numpy()
    dW_enc_FD, db_enc_F, dW_dec_FD = (g.numpy() for g in (gradients.W_enc_DF.T, *gradients[1:3]))
    norm_F = row_norms(W_dec_FD) if objective.weigh_by_norm else np.ones(F, number)
    r_B = token_weights(x_BD, objective.norm_power).numpy()

    start_B1, feature_N, f_N = _find(x_BD, weights, objective, workspace)
    N = len(feature_N)
    dz_N, square_B = workspace.array("dz", N, dtype=number), np.empty(B)
    g_BD = workspace.tensor("g", B * D, x_BD.dtype).view(B, D)
    _by_token(
        x_BD.numpy(), W_dec_FD, b_dec_D, norm_F * per_token, r_B * number.type(2 / B),
        objective.phi == "tanh_relu", start_B1, feature_N, f_N, dz_N, g_BD.numpy(), square_B,
    )  # fmt: skip

    token_N = workspace.array("token", N, dtype=np.int32)
    f_by_feature_N = workspace.array("f by feature", N, dtype=number)
    dz_by_feature_N = workspace.array("dz by feature", N, dtype=number)
    start_F1 = _transpose(start_B1, feature_N, f_N, dz_N, F, token_N, f_by_feature_N, dz_by_feature_N)
    total_F, active_F, square_F = np.empty(F, number), np.empty(F, number), np.empty(F)
    pull = per_token if objective.weigh_by_norm else number.type(0)
    _by_feature(
        x_BD.numpy(), g_BD.numpy(), W_dec_FD, norm_F, pull, objective.unit_norm,
        start_F1, token_N, f_by_feature_N, dz_by_feature_N, _parts(start_F1),
        dW_enc_FD, db_enc_F, dW_dec_FD, total_F, active_F, square_F,
    )  # fmt: skip
    torch.sum(g_BD, 0, out=gradients.b_dec_D)
    return Sums(
        squared_error=float(square_B.sum()),
        reconstruction=float(square_B @ r_B),
        penalty=float(total_F.astype(np.float64) @ norm_F),
        active_F=torch.from_numpy(active_F),
        gradient_square=float(square_F.sum()) + gradients.b_dec_D.square().sum(dtype=torch.float64).item(),
        square_B=torch.from_numpy(square_B),
    )


def _find(x_BD: Tensor, weights: Weights, objective: Objective, workspace: Workspace) -> tuple[Any, Any, Any]:
    """The active features as CSR: where each token's entries start, their features, and their z."""
    B, F = len(x_BD), len(weights.b_enc_F)
    number = x_BD.numpy().dtype
    if objective.noise or workspace.select == "fp32":
        product = select.fp32(x_BD, weights, workspace, objective.noise)
    else:
        product = select.COARSE[workspace.select](x_BD, weights, workspace)
    # no power of two, whose rows would share cache lines; even, for the noise
    width = min(F, max(1, workspace.tile_bytes // (128 * B)) * 32 + 16)
    firsts = range(0, F, width)
    start_KB1 = workspace.array("start", len(firsts) * (B + 1), dtype=np.int64).reshape(len(firsts), B + 1)
    # of these two, only the fronts of rows are ever touched
    column_BT = workspace.array("column", B * width, dtype=np.int32).reshape(B, width)
    z_BT = workspace.array("value", B * width, dtype=number).reshape(B, width)
    end = 0
    for k, first in enumerate(firsts):
        start_KB1[k, 0] = end
        product(first, min(width, F - first), column_BT, z_BT, start_KB1[k])
        end = start_KB1[k, B]
        piece_N, z_N = workspace.array("piece", end, dtype=np.int32), workspace.array("z of piece", end, dtype=number)
        _collect(column_BT, z_BT, first, start_KB1[k], piece_N, z_N)
    start_B1 = np.zeros(B + 1, np.int64)
    np.cumsum(np.diff(start_KB1).sum(0), out=start_B1[1:])
    feature_N, f_N = workspace.array("feature", end, dtype=np.int32), workspace.array("f", end, dtype=number)
    _join(start_KB1, piece_N, z_N, start_B1, feature_N, f_N)
    return start_B1, feature_N, f_N


@numba.njit(parallel=True, cache=True)
def _collect(column_BT: Any, z_BT: Any, first: int, start_B1: Any, feature_N: Any, z_N: Any) -> None:
    """The fronts of a tile's rows laid end to end."""
    for t in numba.prange(len(start_B1) - 1):
        start = start_B1[t]
        for n in range(start_B1[t + 1] - start):
            feature_N[start + n] = first + column_BT[t, n]
            z_N[start + n] = z_BT[t, n]


@numba.njit(parallel=True, cache=True)
def _join(start_KB1: Any, piece_N: Any, z_N: Any, start_B1: Any, feature_N: Any, f_N: Any) -> None:
    """Each token's entries from all K tiles, side by side."""
    for t in numba.prange(len(start_B1) - 1):
        n = start_B1[t]
        for k in range(len(start_KB1)):
            for m in range(start_KB1[k, t], start_KB1[k, t + 1]):
                feature_N[n], f_N[n] = piece_N[m], z_N[m]
                n += 1


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _by_token(
    x_BD: Any,
    W_dec_FD: Any,
    b_dec_D: Any,
    slope_F: Any,
    twice_B: Any,
    bounded: bool,
    start_B1: Any,
    feature_N: Any,
    f_N: Any,
    dz_N: Any,
    g_BD: Any,
    square_B: Any,
) -> None:
    B, D = x_BD.shape
    for t in numba.prange(B):
        x_D, g_D, start, end = x_BD[t], g_BD[t], start_B1[t], start_B1[t + 1]
        if bounded:
            for n in range(start, end):
                f_N[n] = math.tanh(f_N[n])
        for d in range(D):
            g_D[d] = b_dec_D[d] - x_D[d]
        n = start
        while n + 4 <= end:  # four rows at a time: g is read and written once for them
            f0, f1, f2, f3 = f_N[n], f_N[n + 1], f_N[n + 2], f_N[n + 3]
            a_D, b_D = W_dec_FD[feature_N[n]], W_dec_FD[feature_N[n + 1]]
            c_D, d_D = W_dec_FD[feature_N[n + 2]], W_dec_FD[feature_N[n + 3]]
            for d in range(D):
                g_D[d] += (f0 * a_D[d] + f1 * b_D[d]) + (f2 * c_D[d] + f3 * d_D[d])
            n += 4
        for m in range(n, end):
            f, row_D = f_N[m], W_dec_FD[feature_N[m]]
            for d in range(D):
                g_D[d] += f * row_D[d]
        square = 0.0
        for d in range(D):
            square += np.float64(g_D[d]) * np.float64(g_D[d])
            g_D[d] *= twice_B[t]
        square_B[t] = square
        for n in range(start, end):
            dz = slope_F[feature_N[n]] + dot(g_D, W_dec_FD[feature_N[n]])
            if bounded:
                dz *= 1 - f_N[n] * f_N[n]
            dz_N[n] = 0 if f_N[n] == 0 else dz


@numba.njit(cache=True)
def _transpose(
    start_B1: Any, feature_N: Any, f_N: Any, dz_N: Any, F: int, token_N: Any, by_feature_f_N: Any, by_feature_dz_N: Any
) -> Any:
    """CSR -> CSC: per feature its tokens, ascending, with their f and dz. Answers where the features' entries start."""
    start_F1 = np.zeros(F + 1, np.int64)
    for i in feature_N:
        start_F1[i + 1] += 1
    for i in range(F):
        start_F1[i + 1] += start_F1[i]
    fill_F = start_F1[:-1].copy()
    for t in range(len(start_B1) - 1):
        for n in range(start_B1[t], start_B1[t + 1]):
            at = fill_F[feature_N[n]]
            token_N[at], by_feature_f_N[at], by_feature_dz_N[at] = t, f_N[n], dz_N[n]
            fill_F[feature_N[n]] = at + 1
    return start_F1


def _parts(start_F1: Any) -> Any:
    """Where to cut the features into parts of equal work: a feature costs its entries, and some for its rows."""
    F = len(start_F1) - 1
    work_F1 = start_F1 + 8 * np.arange(F + 1)
    return np.searchsorted(work_F1, np.linspace(0, work_F1[-1], _PARTS + 1)).clip(0, F)


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _by_feature(
    x_BD: Any,
    g_BD: Any,
    W_dec_FD: Any,
    norm_F: Any,
    pull: Any,
    unit_norm: bool,
    start_F1: Any,
    token_N: Any,
    f_N: Any,
    dz_N: Any,
    part_P1: Any,
    dW_enc_FD: Any,
    db_enc_F: Any,
    dW_dec_FD: Any,
    total_F: Any,
    active_F: Any,
    square_F: Any,
) -> None:
    D = x_BD.shape[1]
    for part in numba.prange(len(part_P1) - 1):
        for i in range(part_P1[part], part_P1[part + 1]):
            enc_D, dec_D, W_D, start, end = dW_enc_FD[i], dW_dec_FD[i], W_dec_FD[i], start_F1[i], start_F1[i + 1]
            total = bias = active = x_BD.dtype.type(0)
            for n in range(start, end):
                total += f_N[n]
                bias += dz_N[n]
                active += f_N[n] != 0
            # a row of norm 0 has no direction to be pulled in
            along = pull * total / norm_F[i] if pull != 0 and norm_F[i] > 0 else x_BD.dtype.type(0)
            for d in range(D):
                enc_D[d] = 0
                dec_D[d] = along * W_D[d]
            n = start
            while n + 4 <= end:
                t0, t1, t2, t3 = token_N[n], token_N[n + 1], token_N[n + 2], token_N[n + 3]
                f0, f1, f2, f3 = f_N[n], f_N[n + 1], f_N[n + 2], f_N[n + 3]
                z0, z1, z2, z3 = dz_N[n], dz_N[n + 1], dz_N[n + 2], dz_N[n + 3]
                for d in range(D):
                    dec_D[d] += (f0 * g_BD[t0, d] + f1 * g_BD[t1, d]) + (f2 * g_BD[t2, d] + f3 * g_BD[t3, d])
                for d in range(D):
                    enc_D[d] += (z0 * x_BD[t0, d] + z1 * x_BD[t1, d]) + (z2 * x_BD[t2, d] + z3 * x_BD[t3, d])
                n += 4
            for m in range(n, end):
                t, f, dz = token_N[m], f_N[m], dz_N[m]
                for d in range(D):
                    dec_D[d] += f * g_BD[t, d]
                    enc_D[d] += dz * x_BD[t, d]
            if unit_norm:
                along = dot(dec_D, W_D)
                for d in range(D):
                    dec_D[d] -= along * W_D[d]
            total_F[i], db_enc_F[i], active_F[i] = total, bias, active
            square_F[i] = dot(enc_D, enc_D) + dot(dec_D, dec_D) + bias * bias
