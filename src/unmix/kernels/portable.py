"""The same noise and sums as the kernels', in plain torch: what any device that torch knows can run.

The step of such a device is the definition itself, `reference.step`, a tile of tokens at a time (`tiles`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmix.kernels.task import Noise, wide


def gaussian(like_TF: Tensor, noise: Noise, first_token: int) -> Tensor:
    """ε as `noise.add_noise` adds it, in the shape, dtype and device of `like_TF`; equal to it up to rounding."""
    (T, F), device = like_TF.shape, like_TF.device
    row_T1 = _mix(_signed(noise.key) ^ _mix(first_token + torch.arange(T, device=device)))[:, None]
    bits_TP = _mix(row_T1 + torch.arange((F + 1) // 2, device=device))
    # 32 bits each, both in (0, 1): no logarithm of 0
    u_TP, v_TP = ((wide((bits_TP >> shift) & 0xFFFFFFFF) + 0.5) * 2.0**-32 for shift in (32, 0))
    radius_TP = torch.sqrt(-2 * torch.log(u_TP))
    pairs_TP2 = torch.stack([radius_TP * torch.cos(2 * math.pi * v_TP), radius_TP * torch.sin(2 * math.pi * v_TP)], 2)
    return (noise.sigma * pairs_TP2.view(T, -1)[:, :F]).to(like_TF.dtype)


def _mix(x: Tensor) -> Tensor:
    """splitmix64, see `noise`; the multiplications wrap."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def moments(x_BD: Tensor) -> tuple[Tensor, Tensor]:
    """As `rows.moments`."""
    x_BD = wide(x_BD)
    return x_BD.square().sum(0), x_BD.sum(0)
