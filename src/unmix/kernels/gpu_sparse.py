"""A step on a GPU from what is active alone (Triton): a program for each token, then one for each feature.

    per token     ŷ_p of each prefix from the decoder rows of its entries, e_p = ŷ_p - y, g_p = 2 c e_p / (B P ||y||^k)
    per feature   over the tokens on which it was active (CSC: a stable sort by feature), with g the sum of the g_p of
                  the prefixes that it is in,
                      df = g · W_dec_i + what the penalties add        dW_dec_i = Σ f g  (+ what they pull)
                      dz = df phi'(z)                                  dW_enc_i = Σ dz x
                  and for a jumprelu dθ_i = -Σ (θ_i df + what one more active feature costs) K / ε, K = [|z - θ| < ε/2]

A row of g is read once for both df and dW_dec. No number is added up by several programs at once: the same inputs give
the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, TanhRelu
from unmix.dictionary.terms import L0, L1, AuxK, L0Target, SquaredError, Tanh
from unmix.kernels.gpu_find import Entries
from unmix.kernels.gpu_launch import FUSED, warps
from unmix.kernels.task import Task, Weights

GATHERED = 8192  # numbers that a program asks for at once: rows times D, in powers of 2


class Rows(NamedTuple):
    """What the tokens come to."""

    g_PBE: Tensor
    """d loss / d ŷ by the prefixes from p on."""
    square_B: Tensor
    """||ŷ - y||², float64."""
    error_B: Tensor
    """Its mean over the prefixes."""
    active_B: Tensor
    """L0."""
    e_BE: Tensor | None
    """y - ŷ, where a term asks for it."""


class Features(NamedTuple):
    """What the features come to, (F,) each: Σ_B |f|, tokens on which it was active, Σ_B of a `Tanh`."""

    total_F: Tensor
    active_F: Tensor
    tanh_F: Tensor


class Found(NamedTuple):
    """What a step comes to, beside the gradients."""

    square_B: Tensor
    features: Features
    needed_1: Tensor
    """Entries that there had to be room for."""
    threshold_1: Tensor | None
    """The least contribution that a batchtopk kept."""
    terms: tuple[Tensor, ...]
    """Σ_B of each term of the objective."""


def by_token(
    y_BE: Tensor, weights: Weights, task: Task, entries: Entries, r_B: Tensor, end_P: Tensor, stop_1: Tensor
) -> Rows:
    """Reconstructions and their errors."""
    (B, E), P = y_BE.shape, len(end_P)
    block_e = triton.next_power_of_2(E)
    g_PBE, square_B = y_BE.new_empty(P, B, E), y_BE.new_empty(B, dtype=torch.float64)
    error_B, active_B = torch.empty_like(square_B), torch.empty_like(square_B)
    e_BE = torch.empty_like(y_BE) if task.term(AuxK) else None
    start_B1, feature_N, value_N, _ = entries
    _decode_kernel[(B,)](
        y_BE,
        weights["W_dec"],
        weights["b_dec"],
        weights.get("threshold", y_BE),
        r_B * (2 * task.coefficient(SquaredError) / (B * P)),
        start_B1,
        feature_N,
        value_N,
        end_P,
        g_PBE,
        square_B,
        error_B,
        active_B,
        g_PBE if e_BE is None else e_BE,
        stop_1,
        B,
        E,
        P,
        JUMPS=isinstance(task.phi, JumpRelu),
        KEEP_ERROR=e_BE is not None,
        BLOCK_N=_entries(GATHERED, block_e),
        BLOCK_E=block_e,
        num_warps=warps(block_e),
        **FUSED,
    )
    for p in range(P - 2, -1, -1):
        g_PBE[p] += g_PBE[p + 1]
    return Rows(g_PBE, square_B, error_B, active_B, e_BE)


def by_feature(
    x_BD: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    entries: Entries,
    rows: Rows,
    w_F: Tensor,
    end_P: Tensor,
    stop_1: Tensor,
) -> Features:
    """Fills the gradients, but for that of b_dec."""
    (B, D), F, E = x_BD.shape, len(w_F), rows.g_PBE.shape[2]
    _, feature_N, value_N, token_N = entries
    sorted_N, at_N = torch.sort(feature_N, stable=True)  # tokens stay in ascending order within a feature
    start_F1 = torch.searchsorted(sorted_N, torch.arange(F + 1, dtype=torch.int32, device=x_BD.device))
    order_F = start_F1.diff().argsort(descending=True)  # one that is always active starts at once, ends with the rest
    prefix_F = torch.searchsorted(end_P, torch.arange(F, dtype=torch.int32, device=x_BD.device), right=True)
    found = Features(*(torch.empty_like(w_F) for _ in range(3)))
    phi, tanh = task.phi, task.term(Tanh)
    scale = tanh.scale if isinstance(tanh, Tanh) else 1.0
    blocks = triton.next_power_of_2(D), triton.next_power_of_2(E)
    _gradients_kernel[(F,)](
        x_BD,
        rows.g_PBE,
        weights["W_dec"],
        w_F,
        (w_F if task.weigh_by_norm else torch.ones_like(w_F)) * (task.coefficient(L1) / B),
        w_F * scale,
        w_F * (scale * task.coefficient(Tanh) / B),
        weights.get("threshold", w_F),
        w_F.new_full((1,), phi.bandwidth if isinstance(phi, JumpRelu) else 1.0),
        prefix_F,
        one_more(task, rows.active_B, B).to(w_F.dtype),
        order_F,
        start_F1,
        at_N,
        token_N,
        value_N,
        gradients["W_enc"],
        gradients["b_enc"],
        gradients["W_dec"],
        gradients.get("threshold", w_F),
        *found,
        stop_1,
        B,
        D,
        E,
        WEIGHED=task.weigh_by_norm and task.has(L1),
        BOUNDED=isinstance(phi, TanhRelu),
        JUMPS=isinstance(phi, JumpRelu),
        TO_INPUT=isinstance(phi, JumpRelu) and phi.to_input,
        TANH=tanh is not None,
        BLOCK_N=_entries(GATHERED // 2, max(blocks)),
        BLOCK_D=blocks[0],
        BLOCK_E=blocks[1],
        num_warps=warps(max(blocks)),
        **FUSED,
    )
    return found


def one_more(task: Task, active_T: Tensor, batch: int) -> Tensor:
    """What one more active feature adds to the loss of so many tokens, by the penalties that count, (T,)."""
    each, term = task.coefficient(L0) / batch, task.term(L0Target)
    cost_T: Tensor = torch.zeros_like(active_T) + each
    if isinstance(term, L0Target):
        cost_T += (task.coefficient(L0Target) / batch * 4 / term.target) * (active_T - term.target)
    return cost_T


def _entries(numbers: int, block: int) -> int:
    """Rows that a program gathers at once."""
    return max(1, min(16, numbers // block))


@triton.jit
def _decode_kernel(
    y_BE,
    W_dec_FE,
    b_dec_E,
    theta_F,
    twice_B,
    start_B1,
    feature_N,
    value_N,
    end_P,
    g_PBE,
    square_B,
    error_B,
    active_B,
    e_BE,
    stop_1,
    B,
    E,
    P,
    JUMPS: tl.constexpr,
    KEEP_ERROR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    if tl.load(stop_1) != 0:
        return
    t = tl.program_id(0).to(tl.int64)
    d, k = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_B1 + t), tl.load(start_B1 + t + 1)
    e_E = tl.load(b_dec_E + d, mask=d < E, other=0) - tl.load(y_BE + t * E + d, mask=d < E, other=0)
    twice = tl.load(twice_B + t)
    active_k = tl.full((BLOCK_N,), 0, tl.int32)
    square = tl.full((), 0, tl.float64)
    errors = tl.full((), 0, tl.float64)
    for p in range(P):
        stop = tl.load(end_P + p)
        taken_k = tl.full((BLOCK_N,), 0, tl.int32)
        # more stages would go through shared memory. From 0, as Triton 3.6 loses a carried number that is a bound alone
        for done in tl.range(0, end - start, BLOCK_N, num_stages=1):
            n = start + done + k
            here = n < end
            i = tl.load(feature_N + n, mask=here, other=0)
            here = here & (i < stop)
            f = tl.load(value_N + n, mask=here, other=0)
            if JUMPS:
                f = tl.where(f <= tl.load(theta_F + i, mask=here, other=0), 0.0, f)
            row = i.to(tl.int64)[:, None] * E + d[None, :]
            e_E += tl.sum(f[:, None] * tl.load(W_dec_FE + row, mask=here[:, None] & (d < E)[None, :], other=0), 0)
            taken_k += here.to(tl.int32)
            active_k += (f != 0).to(tl.int32)
        start += tl.sum(taken_k, 0)
        in_double_E = e_E.to(tl.float64)
        square = tl.sum(in_double_E * in_double_E, 0)
        errors += square
        tl.store(g_PBE + (p * B + t) * E + d, e_E * twice, mask=d < E)
    tl.store(square_B + t, square)
    tl.store(error_B + t, errors / P)
    tl.store(active_B + t, tl.sum(active_k, 0).to(tl.float64))
    if KEEP_ERROR:
        tl.store(e_BE + t * E + d, -e_E, mask=d < E)


@triton.jit
def _gradients_kernel(
    x_BD,
    g_PBE,
    W_dec_FE,
    w_F,
    slope_F,
    scaled_F,
    tanh_slope_F,
    theta_F,
    bandwidth_1,
    prefix_F,
    one_more_B,
    order_F,
    start_F1,
    at_N,
    token_N,
    value_N,
    dW_enc_FD,
    db_enc_F,
    dW_dec_FE,
    dtheta_F,
    total_F,
    active_F,
    tanh_F,
    stop_1,
    B,
    D,
    E,
    WEIGHED: tl.constexpr,
    BOUNDED: tl.constexpr,
    JUMPS: tl.constexpr,
    TO_INPUT: tl.constexpr,
    TANH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    if tl.load(stop_1) != 0:
        return
    number = x_BD.dtype.element_ty
    i = tl.load(order_F + tl.program_id(0))
    d, m, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_F1 + i), tl.load(start_F1 + i + 1)
    w, slope, theta, bandwidth = tl.load(w_F + i), tl.load(slope_F + i), tl.load(theta_F + i), tl.load(bandwidth_1)
    scaled, tanh_slope, first = tl.load(scaled_F + i), tl.load(tanh_slope_F + i), tl.load(prefix_F + i) * B
    W_E = tl.load(W_dec_FE + i * E + m, mask=m < E, other=0)
    enc_D, dec_E = tl.full((BLOCK_D,), 0, number), tl.full((BLOCK_E,), 0, number)
    none_k = tl.full((BLOCK_N,), 0, number)
    total_k, bias_k, dtheta_k, pulled_k, tanh_k, active_k = none_k, none_k, none_k, none_k, none_k, none_k
    for n in tl.range(start, end, BLOCK_N, num_stages=1):
        here = n + k < end
        at = tl.load(at_N + n + k, mask=here, other=0)
        t = tl.load(token_N + at, mask=here, other=0).to(tl.int64)
        z = tl.load(value_N + at, mask=here, other=0)
        f = z
        if JUMPS:
            f = tl.where(z <= theta, 0.0, z)
        at_g = (first + t)[:, None] * E + m[None, :]
        g = tl.load(g_PBE + at_g, mask=here[:, None] & (m < E)[None, :], other=0)
        dec_E += tl.sum(f[:, None] * g, 0)
        df = tl.sum(g * W_E[None, :], 1) + slope
        if TANH:
            tanh = 1 - 2 / (tl.exp(2 * scaled * f) + 1)
            df += tanh_slope * (1 - tanh * tanh)
            pulled_k += tl.where(here, (1 - tanh * tanh) * f, 0.0)
            tanh_k += tl.where(here, tanh, 0.0)
        dz = tl.where(here & (f != 0), df, 0.0)
        if BOUNDED:
            dz *= 1 - f * f
        if JUMPS:
            near = here & (tl.abs((z - theta) / bandwidth) < 0.5)
            one_more = tl.load(one_more_B + t, mask=here, other=0)
            dtheta_k += tl.where(near, -(theta * df + one_more) / bandwidth, 0.0)
            if TO_INPUT:
                dz += tl.where(near, theta * df / bandwidth, 0.0)
        total_k += tl.abs(f)
        active_k += (f != 0).to(number)
        bias_k += dz
        at_x = t[:, None] * D + d[None, :]
        enc_D += tl.sum(dz[:, None] * tl.load(x_BD + at_x, mask=here[:, None] & (d < D)[None, :], other=0), 0)
    total = tl.sum(total_k, 0)
    if w > 0:  # a row of norm 0 has no direction to be pulled in
        if WEIGHED:
            dec_E += total * (slope / w) * (W_E / w)
        if TANH:
            dec_E += tl.sum(pulled_k, 0) * (tanh_slope / w) * (W_E / w)
    tl.store(dW_dec_FE + i * E + m, dec_E, mask=m < E)
    tl.store(dW_enc_FD + i * D + d, enc_D, mask=d < D)
    tl.store(db_enc_F + i, tl.sum(bias_k, 0))
    tl.store(total_F + i, total)
    tl.store(active_F + i, tl.sum(active_k, 0))
    tl.store(tanh_F + i, tl.sum(tanh_k, 0))
    if JUMPS:
        tl.store(dtheta_F + i, tl.sum(dtheta_k, 0) + theta * 0)  # a threshold that is NaN shows
