"""The update of the weights on a GPU (Triton): one pass over them.

`finish` waits for the device, and clips what it is told to by its caller. Nothing waits if the square stays there:

    square_1 = square(weights, gradients, unit_norm)
    stop_unless_finite(stop_1, pending.number_K, square_1)
    adam(…, how, stop_1, shrink(square_1, clip_norm))

From the first step on whose numbers are not finite, or which had not enough room (`gpu`), all updates do nothing, until
the host has read `stop` and decided; the weights are those from before that step.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.gpu_launch import FUSED, device_of, warps
from unmix.kernels.task import Adam, Weights

NOT_FINITE = 2
"""What `stop` is then; 1 where there was not enough room, 3 is both."""
SQUARED = 4096  # numbers of a gradient that one program squares


def adam(
    weights: Weights,
    gradients: Weights,
    first: Weights,
    second: Weights,
    how: Adam,
    stop_1: Tensor | None = None,
    shrink_1: Tensor | None = None,
) -> None:
    """As `reference.adam`; each number is read once and written once. None where `stop` is set.

    `shrink_1`: in place of `how.shrink`, a number that the host does not know.
    """
    b1, b2 = how.betas
    for name in weights:
        kept = [each[name] for each in (weights, gradients, first, second)]
        rows = [t.T if name == "W_enc" else t for t in kept]
        W, g, m, v = (t.contiguous() for t in rows)
        unit_norm = how.unit_norm and name == "W_dec"
        D = W.shape[-1] if unit_norm else 1024
        block_d = triton.next_power_of_2(D)
        with device_of(W):
            _adam_kernel[(triton.cdiv(W.numel(), D),)](
                W,
                g,
                m,
                v,
                W if stop_1 is None else stop_1,
                W if shrink_1 is None else shrink_1,
                how.shrink,
                b1,
                1 - b1,
                b2,
                1 - b2,
                how.rate(name) / (1 - b1**how.number),
                1 / (1 - b2**how.number),
                how.eps,
                W.numel(),
                D,
                STOPS=stop_1 is not None,
                SHRINKS=shrink_1 is not None,
                UNIT_NORM=unit_norm,
                BLOCK_D=block_d,
                num_warps=warps(block_d),
                **FUSED,
            )
        for new, old in zip((W, m, v), (rows[0], rows[2], rows[3]), strict=True):
            if new.data_ptr() != old.data_ptr():
                old.copy_(new)


def finish(weights: Weights, gradients: Weights, unit_norm: bool) -> float:
    """As `reference.finish`; the host waits for the sum."""
    return square(weights, gradients, unit_norm).item()


def square(weights: Weights, gradients: Weights, unit_norm: bool) -> Tensor:
    """The same left on the device, (1,), float64."""
    rows = {name: gradient.T if name == "W_enc" else gradient for name, gradient in gradients.items()}
    along = {name: weights[name] if unit_norm and name == "W_dec" else None for name in rows}
    numbers = {name: g.shape[-1] if along[name] is not None else SQUARED for name, g in rows.items()}
    programs = [triton.cdiv(g.numel(), numbers[name]) for name, g in rows.items()]
    like = rows["W_dec"]
    part_p = torch.empty(sum(programs), dtype=torch.float64, device=like.device)
    with device_of(like):
        for (name, g), part_n in zip(rows.items(), torch.split(part_p, programs), strict=True):
            kept, W, D = g.contiguous(), along[name], numbers[name]
            block_d = triton.next_power_of_2(D)
            _square_kernel[part_n.shape](
                kept,
                kept if W is None else W.contiguous(),
                part_n,
                g.numel(),
                D,
                UNIT_NORM=W is not None,
                BLOCK_D=block_d,
                num_warps=warps(block_d),
                **FUSED,
            )
            if W is not None and kept.data_ptr() != g.data_ptr():
                g.copy_(kept)
    return part_p.sum().view(1)


def shrink(square_1: Tensor, most: float | None) -> Tensor | None:
    """What brings gradients to a norm of at most that, (1,); None where any norm is right."""
    return None if most is None else (most / square_1.sqrt()).clamp_(max=1)


def stop_unless_finite(stop_1: Tensor, *numbers: Tensor) -> None:
    """Set `stop` where one of these is not; what was not computed because it is set already is left alone."""
    finite = torch.cat([number.view(-1) for number in numbers]).isfinite().all()
    stop_1.bitwise_or_(torch.where((stop_1 == 0) & ~finite, NOT_FINITE, 0).to(torch.int32))


@triton.jit
def _square_kernel(g_FD, W_FD, part_p, numbers, D, UNIT_NORM: tl.constexpr, BLOCK_D: tl.constexpr):
    p, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_D)
    here = (d < D) & (p * D + d < numbers)
    g = tl.load(g_FD + p * D + d, mask=here, other=0)
    if UNIT_NORM:
        W = tl.load(W_FD + p * D + d, mask=here, other=0)
        g -= W * tl.sum(g * W, 0)
        tl.store(g_FD + p * D + d, g, mask=here)
    g_in_double = g.to(tl.float64)
    tl.store(part_p + p, tl.sum(g_in_double * g_in_double, 0))


@triton.jit
def _adam_kernel(
    W_FD,
    g_FD,
    m_FD,
    v_FD,
    stop_1,
    shrink_1,
    shrink,
    b1,
    rest1,
    b2,
    rest2,
    rate,
    correction,
    eps,
    numbers,
    D,
    STOPS: tl.constexpr,
    SHRINKS: tl.constexpr,
    UNIT_NORM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    if STOPS:  # noqa: SIM102 — only then is there a number to load
        if tl.load(stop_1) != 0:
            return
    d = tl.arange(0, BLOCK_D)
    at = tl.program_id(0).to(tl.int64) * D + d
    here = (d < D) & (at < numbers)
    W = tl.load(W_FD + at, mask=here, other=0)
    g = tl.load(g_FD + at, mask=here, other=0)
    if SHRINKS:
        g *= tl.load(shrink_1).to(g.dtype)
    else:
        g *= shrink
    m = b1 * tl.load(m_FD + at, mask=here, other=0) + rest1 * g
    v = b2 * tl.load(v_FD + at, mask=here, other=0) + rest2 * (g * g)
    W -= rate * m / (tl.sqrt(v * correction) + eps)
    if UNIT_NORM:
        W /= tl.sqrt(tl.sum(tl.where(here, W * W, 0), 0))
    tl.store(W_FD + at, W, mask=here)
    tl.store(m_FD + at, m, mask=here)
    tl.store(v_FD + at, v, mask=here)
