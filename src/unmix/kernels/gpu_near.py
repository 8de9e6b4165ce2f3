"""The encoder's product in TF32, which tensor cores take many times faster, and what that leaves undecided.

    |z̃ - z| <= κ ||x|| ||W_enc_i||,    κ = 2^-9 + D 2^-22

as TF32 cuts each factor off after 10 bits, by less than 2^-10 of it, sums are of D terms in float32, and Σ|x_d W_di| is
at most the product of the lengths (Cauchy, Schwarz). An entry that may lie above its floor by this much is a candidate;
z of the candidates is then taken anew in float32 (`refine`), and decides. So nothing is missed, and no value is a
rounded one: what comes out is what the product in float32 would give, up to the rounding of float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.gpu_find import Entries, Margin, score_key
from unmix.kernels.gpu_launch import FUSED, warps
from unmix.kernels.task import Weights

GATHERED = 8192  # numbers that a program asks for at once: rows times D, in powers of 2


def margin(x_BD: Tensor, weights: Weights) -> Margin:
    """Of a batch."""
    kappa = 2**-9 + x_BD.shape[1] * 2**-22
    return Margin(x_BD.norm(dim=1) * kappa, weights["W_enc"].norm(dim=0))


class Scored(NamedTuple):
    """Candidates that are compared by their contributions: w_F and where their keys are."""

    w_F: Tensor
    key_n: Tensor
    both_signs: bool


def refine(
    x_TD: Tensor, weights: Weights, found: Entries, scored: Scored | None, positive: bool, stop_1: Tensor
) -> None:
    """z of each candidate in float32, in the place of what it was found by; with `positive` at least 0."""
    (T, D), key_n = x_TD.shape, found.value_N if scored is None else scored.key_n
    block_d = triton.next_power_of_2(D)
    _refine_kernel[(T,)](
        x_TD,
        weights["W_enc"].T,
        weights["b_enc"],
        weights["b_enc"] if scored is None else scored.w_F,
        found.start_B1,
        found.feature_N,
        found.value_N,
        key_n,
        stop_1,
        D,
        POSITIVE=positive,
        SCORED=scored is not None,
        BOTH=scored is not None and scored.both_signs,
        WIDE=x_TD.dtype == torch.float64,
        BLOCK_N=max(1, min(16, GATHERED // block_d)),
        BLOCK_D=block_d,
        num_warps=warps(block_d),
        **FUSED,
    )


@triton.jit
def _refine_kernel(
    x_TD,
    W_FD,
    b_F,
    w_F,
    start_T1,
    feature_n,
    value_n,
    key_n,
    stop_1,
    D,
    POSITIVE: tl.constexpr,
    SCORED: tl.constexpr,
    BOTH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    if tl.load(stop_1) != 0:
        return
    t = tl.program_id(0).to(tl.int64)
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_T1 + t), tl.load(start_T1 + t + 1)
    x_D = tl.load(x_TD + t * D + d, mask=d < D, other=0)
    for n in tl.range(start, end, BLOCK_N, num_stages=1):
        here = n + k < end
        i = tl.load(feature_n + n + k, mask=here, other=0)
        row = i.to(tl.int64)[:, None] * D + d[None, :]
        W = tl.load(W_FD + row, mask=here[:, None] & (d < D)[None, :], other=0)
        z = tl.sum(W * x_D[None, :], 1) + tl.load(b_F + i, mask=here, other=0)
        if SCORED:
            key = score_key(z, tl.load(w_F + i, mask=here, other=0), 0.0, BOTH, WIDE)
            tl.store(key_n + n + k, key, mask=here)
        if POSITIVE:
            z = tl.where(z <= 0, 0.0, z)
        tl.store(value_n + n + k, z, mask=here)
