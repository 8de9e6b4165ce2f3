"""The update of the weights on a GPU (Triton): one pass over them."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.gpu_launch import FUSED, device_of, warps
from unmix.kernels.task import Adam, Weights


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """As `reference.adam`; each number is read once and written once."""
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
                how.shrink,
                b1,
                1 - b1,
                b2,
                1 - b2,
                how.lr / (1 - b1**how.number),
                1 / (1 - b2**how.number),
                how.eps,
                W.numel(),
                D,
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
    if unit_norm:
        g_FE, W_FE = gradients["W_dec"], weights["W_dec"]
        g_FE.addcmul_(W_FE, (g_FE * W_FE).sum(1, keepdim=True), value=-1)
    return torch.stack([_square(gradient) for gradient in gradients.values()]).sum().item()


def _square(gradient: Tensor) -> Tensor:
    """Σ g² in float64, a stretch at a time: no copy of the whole in float64."""
    flat = (gradient if gradient.is_contiguous() else gradient.T).view(-1)
    return torch.stack([part.double().square().sum() for part in torch.split(flat, 2**24)]).sum()


@triton.jit
def _adam_kernel(
    W_FD,
    g_FD,
    m_FD,
    v_FD,
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
    UNIT_NORM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = tl.arange(0, BLOCK_D)
    at = tl.program_id(0).to(tl.int64) * D + d
    here = (d < D) & (at < numbers)
    W = tl.load(W_FD + at, mask=here, other=0)
    g = tl.load(g_FD + at, mask=here, other=0) * shrink
    m = b1 * tl.load(m_FD + at, mask=here, other=0) + rest1 * g
    v = b2 * tl.load(v_FD + at, mask=here, other=0) + rest2 * (g * g)
    W -= rate * m / (tl.sqrt(v * correction) + eps)
    if UNIT_NORM:
        W /= tl.sqrt(tl.sum(tl.where(here, W * W, 0), 0))
    tl.store(W_FD + at, W, mask=here)
    tl.store(m_FD + at, m, mask=here)
    tl.store(v_FD + at, v, mask=here)
