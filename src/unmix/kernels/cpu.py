"""The same step as `reference` for few active features: after the encoder's product, only what is active is touched.

    1  which features are active, and f of each, as sparse rows (CSR)                  find, active
    2  per token:    ŷ from the decoder rows of its active features, g = (2/B)(ŷ - y) / ||y||^k, and for each of
                     them df_i = g · W_dec_i + (l1/B) w_i; through the nonlinearity dz_i
    3  per feature:  the tokens on which it was active (CSC) give dW_dec_i = Σ f g, dW_enc_i = Σ dz x

With P prefixes, step 2 makes ŷ_p and g_p of each; a feature's g is the sum of those of the prefixes that it is in.

Every sum of these kernels is one thread's, in a fixed order, so it does not depend on the number of threads; torch's
product of fp32 or bf16 may, by rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.terms import (
    L0,
    L1,
    AuxK,
    Gate,
    GateError,
    L0Target,
    MoreActive,
    PreActivation,
    SquaredError,
    Tanh,
)
from unmix.kernels import active as nonlinear
from unmix.kernels import penalties
from unmix.kernels.code_cache import numba
from unmix.kernels.dead import add_auxk, add_preactivation
from unmix.kernels.find import Code, Workspace
from unmix.kernels.rows import SUMS, dot, row_norms
from unmix.kernels.task import Sums, Task, Weights

_PARTS = 64  # that the features are cut into, of equal work


_TERMS = (SquaredError, L1, L0, L0Target, Tanh, Gate, GateError, MoreActive, AuxK, PreActivation)


def covers(task: Task) -> bool:
    """Whether this step knows the nonlinearity and all terms, and how they go together."""
    known = isinstance(task.phi, nonlinear.KNOWN) and task.only(*_TERMS)
    of_dead = task.term(AuxK) or task.term(PreActivation)
    return known and not (of_dead and task.noise)


def step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    x_BD, y_BE = x_BD.contiguous(), y_BE.contiguous()
    B, F, number = len(x_BD), len(weights["b_enc"]), x_BD.numpy().dtype
    W_dec_FE, b_dec_E = weights["W_dec"].numpy(), weights["b_dec"].numpy()
    per_token = number.type(task.coefficient(L1) / B)
    norm_F = row_norms(W_dec_FE) if task.weigh_by_norm else np.ones(F, number)
    r_B = task.error.weigh(y_BE).numpy()
    end_P = np.array(task.error.prefixes or (F,))

    active = nonlinear.find(x_BD, weights, task, workspace)
    code, N = active.code, len(active.code.features_N)
    df_N, square_B, error_B = workspace.array("df", N, dtype=number), np.empty(B), np.empty(B)
    g_PBE = workspace.tensor("g", len(end_P) * y_BE.numel(), x_BD.dtype).view(len(end_P), *y_BE.shape)
    auxk = task.term(AuxK)
    e_BE = workspace.tensor("e", y_BE.numel(), x_BD.dtype).view_as(y_BE) if auxk else y_BE[:0]
    twice_B = r_B * number.type(2 * task.coefficient(SquaredError) / (B * len(end_P)))
    _by_token(
        y_BE.numpy(), W_dec_FE, b_dec_E, norm_F * per_token, twice_B, end_P, *code,
        df_N, g_PBE.numpy(), square_B, error_B, e_BE.numpy(),
    )  # fmt: skip
    gate = code._replace(values_N=active.z_N)
    gate_N, gate_error = _gate_error(y_BE, weights, task, workspace, gate)
    tanh, dw_dec_F = penalties.tanh(code, weights, task, df_N, B)
    dz_N, own = nonlinear.back(task, weights, active, df_N, gate_N, B)

    token_N = workspace.array("token", N, dtype=np.int32)
    f_by_feature_N = workspace.array("f by feature", N, dtype=number)
    dz_by_feature_N = workspace.array("dz by feature", N, dtype=number)
    start_F1 = _transpose(*code, dz_N, F, token_N, f_by_feature_N, dz_by_feature_N)
    total_F, active_F = np.empty(F, number), np.empty(F, number)
    pull = per_token if task.weigh_by_norm else number.type(0)
    _by_feature(
        x_BD.numpy(), g_PBE.numpy(), W_dec_FE, norm_F, pull, np.searchsorted(end_P, np.arange(F), "right"),
        start_F1, token_N, f_by_feature_N, dz_by_feature_N, _parts(start_F1),
        gradients["W_enc"].T.numpy(), gradients["b_enc"].numpy(), gradients["W_dec"].numpy(), total_F, active_F,
    )  # fmt: skip
    torch.sum(g_PBE[0], 0, out=gradients["b_dec"])
    if dw_dec_F is not None:
        gradients["W_dec"].addcmul_(weights["W_dec"], dw_dec_F[:, None])
    for name, gradient_F in own.items():
        if name == "b_enc":
            gradients[name] += torch.from_numpy(gradient_F)
        else:
            gradients[name].copy_(torch.from_numpy(gradient_F))
    penalty = float(total_F.astype(np.float64) @ norm_F)
    found = {
        SquaredError: float(error_B @ r_B),
        L1: penalty,
        L0: float(active_F.sum(dtype=np.float64)),
        L0Target: nonlinear.off_target(task, code),
        Tanh: tanh,
        Gate: penalties.gate(gate, weights, task),
        GateError: gate_error,
    }
    if isinstance(auxk, AuxK):
        found[AuxK] = add_auxk(x_BD, y_BE, e_BE, weights, gradients, task.coefficient(AuxK), auxk).item()
    if isinstance(dead := task.term(PreActivation), PreActivation):
        value = add_preactivation(x_BD, weights, gradients, task.coefficient(PreActivation), dead)
        found[PreActivation] = value.item()
    if isinstance(more := task.term(MoreActive), MoreActive):  # last: it uses the workspace anew
        found[MoreActive] = _add_more_active(x_BD, y_BE, weights, gradients, task, more, workspace)
    return Sums(
        squared_error=float(square_B.sum()),
        terms=task.values(found),
        penalty=penalty,
        active_F=torch.from_numpy(active_F),
        square_B=torch.from_numpy(square_B),
        threshold=active.threshold,
    )


def _add_more_active(
    x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, term: MoreActive, workspace: Workspace
) -> float:
    """Add the gradients of a `MoreActive`, which is a step of its own; answers its sum."""
    its_own = {name: torch.empty_like(gradient) for name, gradient in gradients.items()}
    sums = step(x_BD, y_BE, weights, its_own, Task(term.phi, ((1.0, term.error),), task.noise), workspace)
    for name, gradient in its_own.items():
        gradients[name].add_(gradient, alpha=task.coefficient(MoreActive))
    return float(sums.terms[0])


def _gate_error(
    y_BE: Tensor, weights: Weights, task: Task, workspace: Workspace, gate: Code
) -> tuple[Any | None, float]:
    """(d loss / d max(z, 0), the sum of the term) of a `GateError`; (None, 0) without one."""
    term = task.term(GateError)
    if not isinstance(term, GateError):
        return None, 0.0
    r_B = term.error.weigh(y_BE).numpy()
    coefficient = task.coefficient(GateError)
    (B, _), F, number = y_BE.shape, len(weights["b_enc"]), y_BE.numpy().dtype
    dz_N, square_B = np.empty_like(gate.values_N), np.empty(B)
    g_BE = workspace.tensor("g of gate", y_BE.numel(), y_BE.dtype).view(1, *y_BE.shape)
    twice_B = r_B * number.type(2 * coefficient / B)
    _by_token(
        y_BE.numpy(), weights["W_dec"].numpy(), weights["b_dec"].numpy(), np.zeros(F, number), twice_B, np.array([F]),
        *gate, dz_N, g_BE.numpy(), square_B, np.empty(B), y_BE[:0].numpy(),
    )  # fmt: skip
    return dz_N, float((square_B * r_B).sum())


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _by_token(
    y_BE: Any,
    W_dec_FE: Any,
    b_dec_E: Any,
    slope_F: Any,
    twice_B: Any,
    end_P: Any,
    start_B1: Any,
    feature_N: Any,
    f_N: Any,
    df_N: Any,
    g_PBE: Any,
    square_B: Any,
    error_B: Any,
    e_BE: Any,
) -> None:
    """g_p of each prefix, summed over it and those behind; df of each entry; ||ŷ - y||² of all and its mean over p.

    y - ŷ too where there is room for it.
    """
    (B, E), P = y_BE.shape, len(end_P)
    for t in numba.prange(B):
        y_E, n, end = y_BE[t], start_B1[t], start_B1[t + 1]
        errors = 0.0
        for p in range(P):
            g_E = g_PBE[p, t]
            if p == 0:
                for d in range(E):
                    g_E[d] = b_dec_E[d] - y_E[d]
            else:
                before_E = g_PBE[p - 1, t]
                for d in range(E):
                    g_E[d] = before_E[d]
            stop = n
            if p == P - 1:
                stop = end
            else:
                while stop < end and feature_N[stop] < end_P[p]:
                    stop += 1
            while n + 4 <= stop:  # four rows at a time: g is read and written once for them
                f0, f1, f2, f3 = f_N[n], f_N[n + 1], f_N[n + 2], f_N[n + 3]
                a_E, b_E = W_dec_FE[feature_N[n]], W_dec_FE[feature_N[n + 1]]
                c_E, d_E = W_dec_FE[feature_N[n + 2]], W_dec_FE[feature_N[n + 3]]
                for d in range(E):
                    g_E[d] += (f0 * a_E[d] + f1 * b_E[d]) + (f2 * c_E[d] + f3 * d_E[d])
                n += 4
            for m in range(n, stop):
                f, row_E = f_N[m], W_dec_FE[feature_N[m]]
                for d in range(E):
                    g_E[d] += f * row_E[d]
            n = stop
            square = 0.0
            for d in range(E):
                square += np.float64(g_E[d]) * np.float64(g_E[d])
            errors += square
            if p == P - 1:
                square_B[t] = square
                if len(e_BE):
                    for d in range(E):
                        e_BE[t, d] = -g_E[d]
        error_B[t] = errors / P
        for p in range(P - 1, -1, -1):
            g_E = g_PBE[p, t]
            for d in range(E):
                g_E[d] *= twice_B[t]
            if p < P - 1:
                behind_E = g_PBE[p + 1, t]
                for d in range(E):
                    g_E[d] += behind_E[d]
        p = 0
        for n in range(start_B1[t], end):
            while feature_N[n] >= end_P[p]:
                p += 1
            df_N[n] = slope_F[feature_N[n]] + dot(g_PBE[p, t], W_dec_FE[feature_N[n]])


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
    g_PBE: Any,
    W_dec_FE: Any,
    norm_F: Any,
    pull: Any,
    prefix_F: Any,
    start_F1: Any,
    token_N: Any,
    f_N: Any,
    dz_N: Any,
    part_P1: Any,
    dW_enc_FD: Any,
    db_enc_F: Any,
    dW_dec_FE: Any,
    total_F: Any,
    active_F: Any,
) -> None:
    D, E = x_BD.shape[1], W_dec_FE.shape[1]
    for part in numba.prange(len(part_P1) - 1):
        for i in range(part_P1[part], part_P1[part + 1]):
            enc_D, dec_E, W_E, start, end = dW_enc_FD[i], dW_dec_FE[i], W_dec_FE[i], start_F1[i], start_F1[i + 1]
            g_BE = g_PBE[prefix_F[i]]
            total = bias = active = x_BD.dtype.type(0)
            for n in range(start, end):
                total += abs(f_N[n])
                bias += dz_N[n]
                active += f_N[n] != 0
            # a row of norm 0 has no direction to be pulled in
            along = pull * total / norm_F[i] if pull != 0 and norm_F[i] > 0 else x_BD.dtype.type(0)
            for d in range(D):
                enc_D[d] = 0
            for d in range(E):
                dec_E[d] = along * W_E[d]
            n = start
            while n + 4 <= end:
                t0, t1, t2, t3 = token_N[n], token_N[n + 1], token_N[n + 2], token_N[n + 3]
                f0, f1, f2, f3 = f_N[n], f_N[n + 1], f_N[n + 2], f_N[n + 3]
                z0, z1, z2, z3 = dz_N[n], dz_N[n + 1], dz_N[n + 2], dz_N[n + 3]
                for d in range(E):
                    dec_E[d] += (f0 * g_BE[t0, d] + f1 * g_BE[t1, d]) + (f2 * g_BE[t2, d] + f3 * g_BE[t3, d])
                for d in range(D):
                    enc_D[d] += (z0 * x_BD[t0, d] + z1 * x_BD[t1, d]) + (z2 * x_BD[t2, d] + z3 * x_BD[t3, d])
                n += 4
            for m in range(n, end):
                t, f, dz = token_N[m], f_N[m], dz_N[m]
                for d in range(E):
                    dec_E[d] += f * g_BE[t, d]
                for d in range(D):
                    enc_D[d] += dz * x_BD[t, d]
            total_F[i], db_enc_F[i], active_F[i] = total, bias, active
