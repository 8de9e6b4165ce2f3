"""The same step as `reference` for few active features: after the encoder's product, only what is active is touched.

    1  z = x W_enc + b_enc, a tile of tokens at a time; its positive entries are kept as sparse rows (CSR)
    2  per token:    x̂ from the decoder rows of its active features, g = (2/B)(x̂ - x) / ||x||^k, and for each of
                     them dz_i = (g · W_dec_i + (l1/B) w_i) phi'_i
    3  per feature:  the tokens on which it was active (CSC) give dW_dec_i = Σ f g, dW_enc_i = Σ dz x

One of the five dense products stays. Every output is summed by one thread in a fixed order: the result does not
depend on the number of threads. NaN counts as active, so that it is seen and not dropped.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unmix.kernels.noise import add_noise
from unmix.kernels.reference import Objective, Sums, Weights, token_weights

TILE_BYTES = 8 * 2**20  # of one (tile, F) array
_SUMS = {"reassoc", "contract", "nsz"}  # may reorder a sum into vector lanes; may not assume away NaN


class Workspace:
    """The (tile, F) array of one shape, made once."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.tile = max(64, TILE_BYTES // (4 * features))
        self.z = like.new_empty(self.tile, features)


def step(x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    B, F = len(x_BD), len(weights.b_enc_F)
    x_BD = x_BD.contiguous()
    per_token = objective.l1 / B
    norm_F = weights.W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(weights.b_enc_F)
    r_B = token_weights(x_BD, objective.norm_power)
    start_B1, feature_N, f_N = _active(x_BD, weights, objective, workspace)
    g_BD, square_B, dz_N = torch.empty_like(x_BD), np.empty(B), np.empty_like(f_N)
    _decode(
        x_BD.numpy(),
        weights.W_dec_FD.numpy(),
        weights.b_dec_D.numpy(),
        (norm_F * per_token).numpy(),
        (r_B * (2 / B)).numpy(),
        objective.phi == "tanh_relu",
        start_B1,
        feature_N,
        f_N,
        g_BD.numpy(),
        dz_N,
        square_B,
    )
    start_F1, token_N, at_N = _by_feature(start_B1, feature_N, F)
    total_F = torch.empty_like(norm_F)
    _gradients(
        x_BD.numpy(),
        g_BD.numpy(),
        weights.W_dec_FD.numpy(),
        norm_F.numpy(),
        per_token if objective.weigh_by_norm else 0.0,
        start_F1,
        token_N,
        at_N,
        f_N,
        dz_N,
        gradients.W_enc_DF.T.numpy(),
        gradients.b_enc_F.numpy(),
        gradients.W_dec_FD.numpy(),
        total_F.numpy(),
    )
    torch.sum(g_BD, 0, out=gradients.b_dec_D)
    active_F = torch.from_numpy(np.diff(start_F1)).to(norm_F.dtype)
    penalty = (total_F * norm_F).sum(dtype=torch.float64).item()
    return Sums(float(square_B.sum()), float(square_B @ r_B.double().numpy()), penalty, active_F)


def _active(x_BD: Tensor, weights: Weights, objective: Objective, workspace: Workspace) -> tuple[Any, Any, Any]:
    """The active features as CSR: start of each token's entries, feature and value f of each entry."""
    starts, features, values, entries = [np.zeros(1, np.int64)], [], [], 0
    for first in range(0, len(x_BD), workspace.tile):
        x_TD = x_BD[first : first + workspace.tile]
        z_TF = torch.addmm(weights.b_enc_F, x_TD, weights.W_enc_DF, out=workspace.z[: len(x_TD)]).numpy()
        if objective.noise:
            add_noise(z_TF, objective.noise, first)
        count_T = np.empty(len(x_TD), np.int64)
        _count(z_TF, count_T)
        end_T = np.cumsum(count_T)
        feature_n, value_n = np.empty(end_T[-1], np.int32), np.empty(end_T[-1], z_TF.dtype)
        _compact(z_TF, end_T - count_T, feature_n, value_n)
        starts.append(end_T + entries)
        features.append(feature_n)
        values.append(value_n)
        entries += int(end_T[-1])
    f_N = np.concatenate(values)
    if objective.phi == "tanh_relu":
        np.tanh(f_N, out=f_N)
    return np.concatenate(starts), np.concatenate(features), f_N


@numba.njit(parallel=True, cache=True)
def _count(z_TF: Any, count_T: Any) -> None:
    for t in numba.prange(z_TF.shape[0]):
        n = 0
        for i in range(z_TF.shape[1]):
            n += not (z_TF[t, i] <= 0)
        count_T[t] = n


@numba.njit(parallel=True, cache=True)
def _compact(z_TF: Any, start_T: Any, feature_n: Any, value_n: Any) -> None:
    for t in numba.prange(z_TF.shape[0]):
        n = start_T[t]
        for i in range(z_TF.shape[1]):
            z = z_TF[t, i]
            if not (z <= 0):
                feature_n[n] = i
                value_n[n] = z
                n += 1


@numba.njit(parallel=True, cache=True, fastmath=_SUMS)
def _decode(
    x_BD: Any,
    W_dec_FD: Any,
    b_dec_D: Any,
    slope_F: Any,
    twice_B: Any,
    bounded: bool,
    start_B1: Any,
    feature_N: Any,
    f_N: Any,
    g_BD: Any,
    dz_N: Any,
    square_B: Any,
) -> None:
    B, D = x_BD.shape
    for t in numba.prange(B):
        g_D = g_BD[t]
        for d in range(D):
            g_D[d] = b_dec_D[d] - x_BD[t, d]
        for n in range(start_B1[t], start_B1[t + 1]):
            f, row_D = f_N[n], W_dec_FD[feature_N[n]]
            for d in range(D):
                g_D[d] += f * row_D[d]
        square = 0.0
        for d in range(D):
            square += np.float64(g_D[d]) * np.float64(g_D[d])
            g_D[d] *= twice_B[t]
        square_B[t] = square
        for n in range(start_B1[t], start_B1[t + 1]):
            row_D = W_dec_FD[feature_N[n]]
            dot = slope_F[feature_N[n]]
            for d in range(D):
                dot += g_D[d] * row_D[d]
            dz_N[n] = dot * (1 - f_N[n] * f_N[n]) if bounded else dot


@numba.njit(cache=True)
def _by_feature(start_B1: Any, feature_N: Any, F: int) -> tuple[Any, Any, Any]:
    """CSR -> CSC: per feature its tokens, ascending, and where their entries are."""
    start_F1 = np.zeros(F + 1, np.int64)
    for i in feature_N:
        start_F1[i + 1] += 1
    for i in range(F):
        start_F1[i + 1] += start_F1[i]
    fill_F = start_F1[:-1].copy()
    token_N, at_N = np.empty(len(feature_N), np.int32), np.empty(len(feature_N), np.int64)
    for t in range(len(start_B1) - 1):
        for n in range(start_B1[t], start_B1[t + 1]):
            i = feature_N[n]
            token_N[fill_F[i]] = t
            at_N[fill_F[i]] = n
            fill_F[i] += 1
    return start_F1, token_N, at_N


@numba.njit(parallel=True, cache=True, fastmath=_SUMS)
def _gradients(
    x_BD: Any,
    g_BD: Any,
    W_dec_FD: Any,
    norm_F: Any,
    pull: float,
    start_F1: Any,
    token_N: Any,
    at_N: Any,
    f_N: Any,
    dz_N: Any,
    dW_enc_FD: Any,
    db_enc_F: Any,
    dW_dec_FD: Any,
    total_F: Any,
) -> None:
    D = x_BD.shape[1]
    for i in numba.prange(len(norm_F)):
        enc_D, dec_D = dW_enc_FD[i], dW_dec_FD[i]
        total = f_N.dtype.type(0)
        bias = f_N.dtype.type(0)
        for d in range(D):
            enc_D[d] = 0
            dec_D[d] = 0
        for n in range(start_F1[i], start_F1[i + 1]):
            t, at = token_N[n], at_N[n]
            f, dz = f_N[at], dz_N[at]
            total += f
            bias += dz
            for d in range(D):
                dec_D[d] += f * g_BD[t, d]
                enc_D[d] += dz * x_BD[t, d]
        total_F[i] = total
        db_enc_F[i] = bias
        if pull != 0 and norm_F[i] > 0:  # a row of norm 0 has no direction to be pulled in
            per_row = f_N.dtype.type(pull * total / norm_F[i])
            for d in range(D):
                dec_D[d] += per_row * W_dec_FD[i, d]
