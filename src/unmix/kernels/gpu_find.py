"""Which entries of a tile's z lie above a floor, as sparse rows (Triton): counted, then written where they belong.

The floor is a number for each feature, or a score for each token (`gpu_largest`): a score's bits, as a whole number,
order as the scores do. With a margin, which is how far z may be off (`gpu_near`), what may lie above its floor counts
as above. NaN is above everything, so that it is seen and not dropped. What is found is in the order of
(token, feature), whatever order programs run in.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.gpu_launch import FUSED

CHUNK = 2048  # of a token's features, looked through by one program


class Entries(NamedTuple):
    """Sparse rows with some room behind them, whose features are F."""

    start_B1: Tensor
    feature_N: Tensor
    value_N: Tensor
    token_N: Tensor


class Margin(NamedTuple):
    """How far z may be from what it should be: `x_T` times `W_F`."""

    x_T: Tensor
    W_F: Tensor

    def of(self, part: slice) -> Margin:
        """That of a tile."""
        return Margin(self.x_T[part], self.W_F)


class Scores(NamedTuple):
    """What entries are compared by: their contributions, above the least of their token."""

    w_F: Tensor
    key_TG: Tensor
    """The largest of each group of features, or what it may be at most."""
    least_T: Tensor
    group: int
    both_signs: bool


def ends(z_TF: Tensor, b_F: Tensor, above: Tensor | Scores, margin: Margin | None, base_1: Tensor) -> Tensor:
    """Where the entries of each chunk of each token end, (T, C), if they begin at `base_1`."""
    T, F = z_TF.shape
    count_TC = torch.empty(T, triton.cdiv(F, CHUNK), dtype=torch.int32, device=z_TF.device)
    floor, flags = _above(above, margin, b_F)
    _count_kernel[count_TC.shape](z_TF, b_F, *floor, count_TC, F, CHUNK=CHUNK, **flags, **FUSED)
    return count_TC.view(-1).cumsum(0, dtype=torch.int64).add_(base_1).view_as(count_TC)


def stop_beyond(stop_1: Tensor, end_TC: Tensor, room: int) -> None:
    """Set `stop` where the entries are more than there is room for."""
    stop_1.bitwise_or_((end_TC.view(-1)[-1:] > room).to(torch.int32))


def compact(
    z_TF: Tensor,
    b_F: Tensor,
    above: Tensor | Scores,
    margin: Margin | None,
    base_1: Tensor,
    end_TC: Tensor,
    first: int,
    into: Sequence[Tensor],
    stop_1: Tensor,
) -> None:
    """Write feature, value, and token or key of what is above into these. `first`: number of the tile's first token."""
    floor, flags = _above(above, margin, b_F)
    _compact_kernel[end_TC.shape](
        z_TF, b_F, *floor, base_1, end_TC, *into, stop_1, first, z_TF.shape[1], CHUNK=CHUNK, **flags, **FUSED
    )


def _above(above: Tensor | Scores, margin: Margin | None, like_F: Tensor) -> tuple[tuple[Any, ...], dict[str, int]]:
    """(floor_F, w_F, key_TG, least_T, G, the margin), the kernels' constants; what is not used is another tensor."""
    wide = like_F.dtype == torch.float64
    off = margin or Margin(like_F, like_F)
    flags = {"WIDE": wide, "NEAR": margin is not None}
    if isinstance(above, Scores):
        words = like_F, above.w_F, above.key_TG, above.least_T, above.key_TG.shape[1], *off
        return words, flags | {"SCORED": True, "BOTH": above.both_signs, "GROUP": above.group}
    return (above, like_F, like_F, like_F, 1, *off), flags | {"SCORED": False, "BOTH": False, "GROUP": 1}


@triton.jit
def score_key(z, w, off, BOTH: tl.constexpr, WIDE: tl.constexpr):
    """(|z| + off) w or (z + off) w, at least 0, as a whole number that orders as it does; NaN is the largest."""
    if BOTH:  # noqa: SIM108
        size = tl.abs(z) + off
    else:
        size = z + off
    score = tl.where((size > 0) | (size != size), size * w, 0.0)
    if WIDE:
        key = tl.where(score != score, 0x7FFFFFFFFFFFFFFF, score.to(tl.int64, bitcast=True))
    else:
        key = tl.where(score != score, 0x7FFFFFFF, score.to(tl.int32, bitcast=True))
    return key


@triton.jit
def _look(
    z_TF,
    b_F,
    floor_F,
    w_F,
    key_TG,
    least_T,
    G,
    off_T,
    off_F,
    t,
    i,
    F,
    SCORED: tl.constexpr,
    BOTH: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    NEAR: tl.constexpr,
):
    """(z, its score's key or 0, whether it is above) of some features of a token."""
    here = i < F
    if SCORED:
        least = tl.load(least_T + t)
        here = here & (tl.load(key_TG + t * G + i // GROUP, mask=here, other=0) >= least)
    z = tl.load(z_TF + t * F + i, mask=here, other=0) + tl.load(b_F + i, mask=here, other=0)
    off = tl.full((), 0.0, z.dtype)
    if NEAR:
        off = tl.load(off_T + t) * tl.load(off_F + i, mask=here, other=0)
    if SCORED:
        key = score_key(z, tl.load(w_F + i, mask=here, other=0), off, BOTH, WIDE)
        above = here & (key >= least)
    else:
        key = i
        floor = tl.load(floor_F + i, mask=here, other=0) - off
        above = here & ((z > floor) | (z != z) | (floor != floor))
    return z, key, above


@triton.jit
def _count_kernel(
    z_TF,
    b_F,
    floor_F,
    w_F,
    key_TG,
    least_T,
    G,
    off_T,
    off_F,
    count_TC,
    F,
    CHUNK: tl.constexpr,
    SCORED: tl.constexpr,
    BOTH: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    NEAR: tl.constexpr,
):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = c * CHUNK + tl.arange(0, CHUNK)
    _, _, above = _look(
        z_TF, b_F, floor_F, w_F, key_TG, least_T, G, off_T, off_F, t, i, F, SCORED, BOTH, WIDE, GROUP, NEAR
    )
    tl.store(count_TC + t * tl.num_programs(1) + c, tl.sum(above.to(tl.int32), 0))


@triton.jit
def _compact_kernel(
    z_TF,
    b_F,
    floor_F,
    w_F,
    key_TG,
    least_T,
    G,
    off_T,
    off_F,
    base_1,
    end_TC,
    feature_n,
    value_n,
    third_n,
    stop_1,
    first,
    F,
    CHUNK: tl.constexpr,
    SCORED: tl.constexpr,
    BOTH: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    NEAR: tl.constexpr,
):
    if tl.load(stop_1) != 0:
        return
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = t * tl.num_programs(1) + c
    base = tl.load(base_1)
    end = tl.load(end_TC + at)
    start = tl.load(end_TC + at - 1, mask=at > 0, other=base)
    if end > start:
        i = c * CHUNK + tl.arange(0, CHUNK)
        z, key, above = _look(
            z_TF, b_F, floor_F, w_F, key_TG, least_T, G, off_T, off_F, t, i, F, SCORED, BOTH, WIDE, GROUP, NEAR
        )
        n = start - 1 + tl.cumsum(above.to(tl.int32), 0)
        tl.store(feature_n + n, i, mask=above)
        tl.store(value_n + n, z, mask=above)
        if SCORED:
            tl.store(third_n + n, key, mask=above)
        else:
            tl.store(third_n + n, (first + t + tl.zeros_like(i)).to(tl.int32), mask=above)
