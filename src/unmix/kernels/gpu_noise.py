"""Noise on the pre-activations on a GPU (Triton): the same as `noise` makes on the CPU."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.gpu_launch import FUSED
from unmix.kernels.task import Noise


def add_noise(z_TF: Tensor, noise: Noise, first_token: int) -> None:
    """z += ε in place, as `noise.add_noise` does; equal to it up to rounding in float32. z lies in one piece."""
    T, F = z_TF.shape
    key = noise.key - 2**64 if noise.key >= 2**63 else noise.key
    key_1 = torch.full((1,), key, device=z_TF.device)  # made there: a copy would wait for the device
    _noise_kernel[(T, triton.cdiv(F, 1024))](z_TF, key_1, noise.sigma, first_token, F, PAIRS=512, **FUSED)


@triton.jit
def _mix(x):
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _noise_kernel(z_TF, key_1, sigma, first_token, F, PAIRS: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    key = tl.load(key_1).to(tl.uint64, bitcast=True)
    bits = _mix(_mix(key ^ _mix((first_token + t).to(tl.uint64))) + j.to(tl.uint64))
    high, low = (bits >> 32).to(tl.uint32), bits.to(tl.uint32)
    # -log(u), u = (high + 1/2) / 2**32: through 1 - u where u is near 1, which has no room for its distance in float32
    u = (high.to(tl.float32) + 0.5) * (1 / 4294967296)
    rest = ((high ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (1 / 4294967296)
    near = 1 - rest
    near_log = tl.where(near == 1, rest, -tl.log(near) * (rest / tl.where(near == 1, 1.0, 1 - near)))
    radius = sigma * tl.sqrt(2 * tl.where(rest < 0.5, near_log, -tl.log(u)))
    angle = (low.to(tl.float32) + 0.5) * (6.283185307179586 / 4294967296)
    at = z_TF + t * F + 2 * j
    even, odd = 2 * j < F, 2 * j + 1 < F
    tl.store(at, tl.load(at, mask=even, other=0) + radius * tl.cos(angle), mask=even)
    tl.store(at + 1, tl.load(at + 1, mask=odd, other=0) + radius * tl.sin(angle), mask=odd)
