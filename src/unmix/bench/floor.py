"""What the machine can do at best, measured in the same run: matrix products alone, and copying.

a product [B, D] x [D, F] is 2 B D F operations          GFLOP/s
a copy reads and writes each byte                        GB/s, both counted
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from unmix.kernels.find import TILE_BYTES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPY_BYTES = 2**28  # of each of the two arrays: more than any cache holds
_HEIGHTS = (256, 1024)  # tokens of a tile that are tried beside all of them


class Product(NamedTuple):
    """A way of making the encoder's product."""

    how: str
    call: Callable[[], None]


def encoder_product(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Product:
    """x W + b into memory that is used again: of several layouts and tiles, the fastest. All of one dtype."""
    B, F = len(x_BD), len(b_F)
    width = min(F, max(32, TILE_BYTES // (4 * B)))
    tried = [_by_features(x_BD, W_FD, b_F, width)]
    for layout, W_DF in (("features", W_FD.T), ("inputs", W_FD.T.contiguous())):
        for rows in sorted({min(rows, B) for rows in (*_HEIGHTS, B)}):
            tried.append(_by_tokens(x_BD, W_DF, b_F, rows, layout))
    return min(tried, key=lambda product: min(_seconds(product.call) for _ in range(2)))


def _by_tokens(x_BD: Tensor, W_DF: Tensor, b_F: Tensor, rows: int, layout: str) -> Product:
    out_TF = x_BD.new_empty(rows, W_DF.shape[1])

    def call() -> None:
        for first in range(0, len(x_BD), rows):
            x_TD = x_BD[first : first + rows]
            torch.addmm(b_F, x_TD, W_DF, out=out_TF[: len(x_TD)])

    return Product(f"tiles of {rows} tokens, weights laid out by {layout}", call)


def _by_features(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, width: int) -> Product:
    out_N = x_BD.new_empty(len(x_BD) * width)

    def call() -> None:
        for first in range(0, len(b_F), width):
            W_TD = W_FD[first : first + width]
            out_BT = out_N[: len(x_BD) * len(W_TD)].view(len(x_BD), len(W_TD))
            torch.addmm(b_F[first : first + width], x_BD, W_TD.T, out=out_BT)

    return Product(f"tiles of {width} features", call)


def whole_product(x_BD: Tensor, W_FD: Tensor) -> Product:
    """x W of int8 numbers, in int32: of several tiles of features, the fastest."""
    B, F = len(x_BD), len(W_FD)
    width = max(32, TILE_BYTES // (4 * B))
    widths = {min(F, wide) for wide in (width, width + 16, 2 * width, F)}  # rows a power of two apart share cache lines
    tried = [_by_whole(x_BD, W_FD, wide) for wide in sorted(widths)]
    return min(tried, key=lambda product: min(_seconds(product.call) for _ in range(2)))


def _by_whole(x_BD: Tensor, W_FD: Tensor, width: int) -> Product:
    B, F = len(x_BD), len(W_FD)
    out_N = torch.empty(B * width, dtype=torch.int32)

    def call() -> None:
        for first in range(0, F, width):
            W_TD = W_FD[first : first + width]
            torch._int_mm(x_BD, W_TD.T, out=out_N[: B * len(W_TD)].view(B, len(W_TD)))

    return Product(f"tiles of {width} features", call)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rates(flops: float, seconds: Mapping[str, list[float]]) -> dict[str, dict[str, object]]:
    """What each precision's products came to."""
    return {
        name: {"seconds": taken, "median_s": median(taken), "gflop_per_s": flops / median(taken) / 1e9}
        for name, taken in seconds.items()
    }


def copy_rate(repeats: int) -> float:
    """GB/s of copying one large array to another, read and written bytes both counted; the median."""
    source_N, target_N = torch.ones(COPY_BYTES // 4), torch.zeros(COPY_BYTES // 4)
    target_N.copy_(source_N)
    return 2 * COPY_BYTES / median(_seconds(lambda: target_N.copy_(source_N)) for _ in range(repeats)) / 1e9
