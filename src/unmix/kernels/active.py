"""Nonlinearities on sparse rows: which entries are active, how much, and what comes back through them.

    relu, tanh_relu   every z > 0
    topk, batchtopk   of the z > 0 those that contribute most; found above a floor that a few tokens suggest
    abstopk           the same of all z, by |z|
    jumprelu          every z > θ - ε/2: those up to θ are 0, and reach θ alone
    gated             every z > 0, with a magnitude of its own

`find` makes the entries, `back` turns d loss / d f of each into d loss / d z, and gives the gradients of a
nonlinearity's own parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, Gated, JumpRelu, Relu, TanhRelu, TopK, row_norms
from unmix.dictionary.terms import L0, Gate, L0Target
from unmix.kernels.code_cache import numba
from unmix.kernels.find import Code, Workspace, candidates
from unmix.kernels.penalties import by_feature
from unmix.kernels.task import Task, Weights

KNOWN = (Relu, TanhRelu, JumpRelu, TopK, AbsTopK, BatchTopK, Gated)
LOOKED_AT = 64  # tokens of a batch whose largest contributions suggest the floor of a top-k
FEW = 64  # tokens are looked at again in fp32
MARGIN = 1.1  # so many times the entries that are wanted, at least: the floor is to be too low rather than too high


class Active(NamedTuple):
    """The entries of a batch."""

    code: Code
    """f."""
    z_N: Any
    """Their pre-activations; the same array as the values where f = z."""
    threshold: float | None = None
    """The least contribution that a batchtopk kept; 0 where there were fewer than it wanted."""


def find(x_BD: Tensor, weights: Weights, task: Task, workspace: Workspace) -> Active:
    """The entries of the batch."""
    match task.phi:
        case Relu():
            code = candidates(x_BD, weights, workspace, task.noise)
            return Active(code, code.values_N)
        case TanhRelu():
            code = candidates(x_BD, weights, workspace, task.noise)
            f_N = workspace.array("tanh", len(code.values_N), code.values_N.dtype)
            _tanh(code.values_N, f_N)
            return Active(code._replace(values_N=f_N), code.values_N)
        case TopK(k, weigh) | AbsTopK(k, weigh):
            return _topk(x_BD, weights, task, workspace, k, weigh)
        case BatchTopK() as phi:
            return _batchtopk(x_BD, weights, task, workspace, phi.entries(len(x_BD)))
        case JumpRelu(bandwidth):
            theta_F = weights["threshold"]
            # in bf16 an entry may be missed by its rounding: below the window that costs nothing
            below = bandwidth / 2 if workspace.select != "bf16" else bandwidth
            code = candidates(x_BD, weights, workspace, task.noise, theta_F - below)
            f_N = workspace.array("jumped", len(code.values_N), code.values_N.dtype)
            _jump(code.features_N, code.values_N, theta_F.numpy(), f_N)
            return Active(code._replace(values_N=f_N), code.values_N)
        case Gated():
            code = candidates(x_BD, weights, workspace, task.noise)
            f_N = workspace.array("magnitude", len(code.values_N), code.values_N.dtype)
            b_enc_F, r_mag_F, b_mag_F = (weights[name].numpy() for name in ("b_enc", "r_mag", "b_mag"))
            _magnitude(code.features_N, code.values_N, b_enc_F, r_mag_F, b_mag_F, f_N)
            return Active(code._replace(values_N=f_N), code.values_N)
    raise TypeError(f"no sparse step for {task.phi}")


def back(
    task: Task, weights: Weights, active: Active, df_N: Any, gate_N: Any | None, tokens: int
) -> tuple[Any, dict[str, Any]]:
    """(dz, in the memory of df; the gradients of own parameters, and what b_enc gets apart from Σ dz).

    `df_N`: d loss / d f; `gate_N`: of a `GateError`, d loss / d max(z, 0).
    """
    (_, feature_N, f_N), z_N = active.code, active.z_N
    number = f_N.dtype.type
    F = len(weights["b_enc"])
    match task.phi:
        case TanhRelu():
            _back_through_tanh(f_N, df_N)
        case JumpRelu(bandwidth, to_input=to_input):
            theta_F = weights["threshold"].numpy()
            each_N = np.repeat(_each_more(task, active.code, tokens).astype(number), np.diff(active.code.starts_B1))
            dtheta_N = np.empty_like(df_N)
            _back_through_jump(feature_N, z_N, theta_F, number(bandwidth), to_input, each_N, f_N, df_N, dtheta_N)
            return df_N, {"threshold": by_feature(feature_N, dtheta_N, F)}
        case Gated():
            gates = number(task.coefficient(Gate) / tokens) * row_norms(weights).numpy()
            if gate_N is None:
                gate_N = np.zeros_like(df_N)
            scale_F = weights["r_mag"].exp().numpy()
            dm_N, dr_N = np.empty_like(df_N), np.empty_like(df_N)
            b_F = weights["b_enc"].numpy()
            _back_through_gate(feature_N, z_N, b_F, scale_F, f_N, gates, gate_N, df_N, dm_N, dr_N)
            dm_F = by_feature(feature_N, dm_N, F)
            own = {"r_mag": by_feature(feature_N, dr_N, F), "b_mag": dm_F, "b_enc": -scale_F * dm_F}
            return df_N, own
        case _:
            _only_active(f_N, df_N)
    return df_N, {}


def off_target(task: Task, code: Code) -> float:
    """The sum of an `L0Target`; 0 without one."""
    term = task.term(L0Target)
    if not isinstance(term, L0Target):
        return 0.0
    return float(2 / term.target * np.square(_active_of_tokens(code) - term.target).sum())


def _active_of_tokens(code: Code) -> Any:
    """L0 of each token, float64."""
    active_N1 = np.concatenate(([0], np.cumsum(code.values_N != 0)))
    return np.diff(active_N1[code.starts_B1]).astype(np.float64)


def _each_more(task: Task, code: Code, tokens: int) -> Any:
    """What one more active feature of a token adds to the loss, by the penalties that count."""
    each_B = np.full(len(code.starts_B1) - 1, task.coefficient(L0) / tokens)
    term = task.term(L0Target)
    if isinstance(term, L0Target):
        off_B = _active_of_tokens(code) - term.target
        each_B += task.coefficient(L0Target) / tokens * 4 / term.target * off_B
    return each_B


def _topk(x_BD: Tensor, weights: Weights, task: Task, workspace: Workspace, k: int, weigh: bool) -> Active:
    """Tokens of which too few entries lie above the floor are looked at again above half of it, at last above 0."""
    norm_F = row_norms(weights) if weigh else torch.ones_like(weights["b_enc"])
    both = isinstance(task.phi, AbsTopK)
    k, floor = min(k, len(norm_F)), 0.0
    if task.noise is None:
        score_TF = _some_scores(x_BD, weights, norm_F, both)
        floor = score_TF.kthvalue(len(norm_F) - k + 1, dim=1).values.min().item()
    code = candidates(x_BD, weights, workspace, task.noise, _floors(floor, norm_F), both_signs=both)
    kept = _largest(code, norm_F, k)
    short_S: Any = np.flatnonzero(np.diff(code.starts_B1) < k)
    for lower in (floor / 2, 0.0):
        if len(short_S) == 0 or floor <= 0:
            break
        x_SD = x_BD[torch.from_numpy(short_S)]
        floor_F = _floors(lower, norm_F)
        code = candidates(x_SD, weights, workspace, None, floor_F, in_fp32=len(x_SD) < FEW, both_signs=both)
        kept = _with_rows(kept, short_S, _largest(code, norm_F, k))
        short_S = short_S[np.diff(code.starts_B1) < k]
    return Active(kept, kept.values_N)


def _largest(code: Code, norm_F: Tensor, k: int) -> Code:
    """The k entries of each token that contribute most."""
    start_B1 = np.zeros_like(code.starts_B1)
    np.cumsum(np.minimum(np.diff(code.starts_B1), k), out=start_B1[1:])
    feature_N, z_N = np.empty(start_B1[-1], np.int32), np.empty(start_B1[-1], code.values_N.dtype)
    _keep_largest(*code, norm_F.numpy(), start_B1, feature_N, z_N)
    return Code(start_B1, feature_N, z_N)


def _with_rows(code: Code, rows_S: Any, others: Code) -> Code:
    """The code with the rows of some tokens taken from another one."""
    count_B = np.diff(code.starts_B1)
    count_B[rows_S] = np.diff(others.starts_B1)
    start_B1 = np.zeros(len(count_B) + 1, np.int64)
    np.cumsum(count_B, out=start_B1[1:])
    feature_N, value_N = np.empty(start_B1[-1], np.int32), np.empty(start_B1[-1], code.values_N.dtype)
    from_others_B = np.full(len(count_B), -1, np.int64)
    from_others_B[rows_S] = np.arange(len(rows_S))
    _take_rows(*code, *others, from_others_B, start_B1, feature_N, value_N)
    return Code(start_B1, feature_N, value_N)


def _batchtopk(x_BD: Tensor, weights: Weights, task: Task, workspace: Workspace, wanted: int) -> Active:
    """A floor that turns out too high is lowered, at last to 0."""
    norm_F = row_norms(weights)
    score_TF = _some_scores(x_BD, weights, norm_F)
    asked = min(score_TF.numel(), int(MARGIN * wanted * len(score_TF) / len(x_BD)) + 8)
    floor = score_TF.flatten().kthvalue(score_TF.numel() - asked + 1).values.item()
    while True:
        code = candidates(x_BD, weights, workspace, task.noise, _floors(floor, norm_F))
        if len(code.features_N) >= wanted or floor <= 0:
            break
        floor = floor / 2 if floor > 1e-3 * score_TF.max().item() else 0.0
    score_N = np.empty_like(code.values_N)
    _scores(code.features_N, code.values_N, norm_F.numpy(), score_N)
    if 0 < wanted <= len(score_N):
        least = np.partition(score_N, len(score_N) - wanted)[len(score_N) - wanted]
        ties = wanted - int((score_N > least).sum())
    else:  # none, or all there are
        least, ties = np.inf if wanted == 0 else -np.inf, 0
    kept = Code(*_kept_above(*code, score_N, least, ties))
    return Active(kept, kept.values_N, float(least) if np.isfinite(least) else 0.0)


def _some_scores(x_BD: Tensor, weights: Weights, norm_F: Tensor, both_signs: bool = False) -> Tensor:
    """What every feature contributes to a few tokens spread over the batch, without noise, (T, F)."""
    some_TD = x_BD[:: max(1, len(x_BD) // LOOKED_AT)]
    z_TF = torch.addmm(weights["b_enc"], some_TD, weights["W_enc"])
    score_TF: Tensor = (z_TF.abs_() if both_signs else z_TF.relu_()).mul_(norm_F)
    return score_TF.nan_to_num_(0.0)  # a NaN shows in the step itself


def _floors(floor: float, norm_F: Tensor) -> Tensor:
    """Of z, for a floor of z ||W_dec||; a feature with a row of norm 0 contributes nothing, and is never above."""
    return torch.where(norm_F > 0, max(floor, 0.0) / norm_F, torch.inf)


@numba.njit(parallel=True, cache=True)
def _tanh(z_N: Any, f_N: Any) -> None:
    for n in numba.prange(len(z_N)):
        f_N[n] = np.tanh(z_N[n])


@numba.njit(parallel=True, cache=True)
def _jump(feature_N: Any, z_N: Any, theta_F: Any, f_N: Any) -> None:
    for n in numba.prange(len(z_N)):
        f_N[n] = z_N.dtype.type(0) if z_N[n] <= theta_F[feature_N[n]] else z_N[n]


@numba.njit(parallel=True, cache=True)
def _magnitude(feature_N: Any, z_N: Any, b_F: Any, r_F: Any, b_mag_F: Any, f_N: Any) -> None:
    for n in numba.prange(len(z_N)):
        i = feature_N[n]
        m = np.exp(r_F[i]) * (z_N[n] - b_F[i]) + b_mag_F[i]
        f_N[n] = z_N.dtype.type(0) if m <= 0 else m


@numba.njit(parallel=True, cache=True)
def _only_active(f_N: Any, df_N: Any) -> None:
    for n in numba.prange(len(f_N)):
        if f_N[n] == 0:
            df_N[n] = 0


@numba.njit(parallel=True, cache=True)
def _back_through_tanh(f_N: Any, df_N: Any) -> None:
    for n in numba.prange(len(f_N)):
        df_N[n] = 0 if f_N[n] == 0 else df_N[n] * (1 - f_N[n] * f_N[n])


@numba.njit(parallel=True, cache=True)
def _back_through_jump(
    feature_N: Any,
    z_N: Any,
    theta_F: Any,
    bandwidth: Any,
    to_input: bool,
    each_N: Any,
    f_N: Any,
    df_N: Any,
    dtheta_N: Any,
) -> None:
    """dθ = -(θ df + each) K/ε, `each` what one more active feature costs; dz = df where z > θ (+ θ df K/ε)."""
    for n in numba.prange(len(z_N)):
        theta, zero = theta_F[feature_N[n]], z_N.dtype.type(0)
        near = abs((z_N[n] - theta) / bandwidth) < 0.5
        dtheta_N[n] = -(theta * df_N[n] + each_N[n]) / bandwidth if near else zero
        through = theta * df_N[n] / bandwidth if near and to_input else zero
        df_N[n] = (df_N[n] if f_N[n] != 0 else zero) + through


@numba.njit(parallel=True, cache=True)
def _back_through_gate(
    feature_N: Any,
    z_N: Any,
    b_F: Any,
    scale_F: Any,
    f_N: Any,
    gates_F: Any,
    gate_N: Any,
    df_N: Any,
    dm_N: Any,
    dr_N: Any,
) -> None:
    """dm = df [m > 0];  dz = exp(r) dm + what the gate gets;  dr = dm exp(r) (z - b_enc)."""
    for n in numba.prange(len(z_N)):
        i = feature_N[n]
        dm = df_N[n] if f_N[n] != 0 else z_N.dtype.type(0)
        dm_N[n] = dm
        dr_N[n] = dm * scale_F[i] * (z_N[n] - b_F[i])
        df_N[n] = scale_F[i] * dm + gates_F[i] + gate_N[n]


@numba.njit(parallel=True, cache=True)
def _scores(feature_N: Any, z_N: Any, norm_F: Any, score_N: Any) -> None:
    for n in numba.prange(len(z_N)):
        score_N[n] = z_N[n] * norm_F[feature_N[n]]


@numba.njit(cache=True)
def _kept_above(start_B1: Any, feature_N: Any, z_N: Any, score_N: Any, least: Any, ties: int) -> Any:
    """The entries with a score above `least` (NaN too), and the first `ties` that have just that."""
    kept_B1 = np.zeros_like(start_B1)
    kept_feature_N, kept_z_N = np.empty_like(feature_N), np.empty_like(z_N)
    m = 0
    for t in range(len(start_B1) - 1):
        for n in range(start_B1[t], start_B1[t + 1]):
            equal = score_N[n] == least
            if equal:
                ties -= 1
            if (equal and ties >= 0) or not (score_N[n] <= least):
                kept_feature_N[m], kept_z_N[m] = feature_N[n], z_N[n]
                m += 1
        kept_B1[t + 1] = m
    return kept_B1, kept_feature_N[:m].copy(), kept_z_N[:m].copy()


@numba.njit(parallel=True, cache=True)
def _keep_largest(
    start_B1: Any, feature_N: Any, z_N: Any, norm_F: Any, kept_B1: Any, kept_feature_N: Any, kept_z_N: Any
) -> None:
    """Of each token as many entries as there is room for: those that contribute most, ties to the lowest feature."""
    for t in numba.prange(len(start_B1) - 1):
        start, end, m, room = start_B1[t], start_B1[t + 1], kept_B1[t], kept_B1[t + 1] - kept_B1[t]
        if end - start > room:
            score_n = np.empty(end - start, z_N.dtype)
            for n in range(start, end):
                score_n[n - start] = abs(z_N[n]) * norm_F[feature_N[n]]
            least = np.partition(score_n, end - start - room)[end - start - room] if room else np.inf
            ties = room
            for score in score_n:
                ties -= not (score <= least)
        else:
            least, ties = -np.inf, 0
        for n in range(start, end):
            score = abs(z_N[n]) * norm_F[feature_N[n]]
            equal = score == least
            if equal:
                ties -= 1
            if ((equal and ties >= 0) or not (score <= least)) and m < kept_B1[t + 1]:
                kept_feature_N[m], kept_z_N[m] = feature_N[n], z_N[n]
                m += 1


@numba.njit(parallel=True, cache=True)
def _take_rows(
    start_B1: Any, feature_N: Any, value_N: Any, other_S1: Any, other_feature_N: Any, other_value_N: Any,
    from_others_B: Any, kept_B1: Any, kept_feature_N: Any, kept_value_N: Any,
) -> None:  # fmt: skip
    for t in numba.prange(len(kept_B1) - 1):
        s, m = from_others_B[t], kept_B1[t]
        for n in range(kept_B1[t + 1] - m):
            if s >= 0:
                kept_feature_N[m + n], kept_value_N[m + n] = (
                    other_feature_N[other_S1[s] + n],
                    other_value_N[other_S1[s] + n],
                )
            else:
                kept_feature_N[m + n], kept_value_N[m + n] = feature_N[start_B1[t] + n], value_N[start_B1[t] + n]
