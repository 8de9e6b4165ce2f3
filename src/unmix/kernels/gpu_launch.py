"""How every GPU kernel is started: on which device, with how many warps, in which rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PER_WARP = 256  # of the D numbers of a row
FUSED: Any = {"enable_fp_fusion": True}  # a·b + c in one rounding, whatever triton's default


def warps(block_d: int) -> int:
    """For a program that holds rows of so many numbers."""
    return max(1, min(16, block_d // PER_WARP))


def device_of(t: Tensor) -> Any:
    """Kernels start on the current device, which need not be where the tensor is."""
    cuda: Any = torch.cuda
    return cuda.device_of(t)


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Matrix products of float32 in TF32, which keeps 10 of their 23 bits, or in float32 whatever torch was told."""
    matmul: Any = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")  # torch 2.9 and later
    name, asked = ("fp32_precision", "tf32" if tf32 else "ieee") if new else ("allow_tf32", tf32)
    before = getattr(matmul, name)
    setattr(matmul, name, asked)
    try:
        yield
    finally:
        setattr(matmul, name, before)
