"""Which features may be active, and their z: the encoder's product, of which only what is above a floor is kept.

A tile of features at a time; where z > floor_i is kept as sparse rows (CSR). The product need not be exact: in bf16 or
int8 (`select`) it only says which z may be above the floor, and these are computed in fp32. With noise it is in fp32.

NaN counts as above, so that it is seen and not dropped. The arrays are kept from step to step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.code import Code as Code
from unmix.kernels import select
from unmix.kernels.code_cache import numba
from unmix.kernels.task import Noise, Weights

TILE_BYTES = 16 * 2**20  # of the encoder's product for a tile of features and all tokens: to stay in cache


class Workspace:
    """The arrays of a step. Those with an entry per active feature grow to the most that were ever active."""

    def __init__(self, select: select.Precision = "fp32", tile_bytes: int = TILE_BYTES) -> None:
        self.select, self.tile_bytes = select, tile_bytes
        self._kept: dict[str, Any] = {}

    def array(self, name: str, length: int, dtype: Any) -> Any:
        """The first `length` numbers of an array; what was in it stays when it has to grow, unless the dtype is new."""
        kept = self._kept.get(name)
        if kept is None or kept.dtype != dtype:
            kept = np.empty(0, dtype)
        if len(kept) < length:
            grown = np.empty(length + length // 4, dtype)
            grown[: len(kept)] = kept
            self._kept[name] = kept = grown
        return kept[:length]

    def tensor(self, name: str, length: int, dtype: torch.dtype) -> Tensor:
        """The same of a tensor, whatever is in it."""
        kept = self._kept.get(name)
        if kept is None or len(kept) < length or kept.dtype != dtype:
            self._kept[name] = kept = torch.empty(length, dtype=dtype)
        made: Tensor = kept[:length]
        return made


def candidates(
    x_BD: Tensor,
    weights: Weights,
    workspace: Workspace,
    noise: Noise | None = None,
    floor_F: Tensor | None = None,
    *,
    in_fp32: bool = False,
    both_signs: bool = False,
) -> Code:
    """The z that are above the floor (0 where there is none), as arrays of the workspace.

    `in_fp32`, whatever the workspace says: few tokens are not worth rounding W_enc for. `both_signs`: the z that are
    below minus the floor, too; in fp32, since coarse products are compared on one side alone.
    """
    B, F = len(x_BD), len(weights["b_enc"])
    number = x_BD.numpy().dtype
    in_fp32 = in_fp32 or both_signs or x_BD.shape[1] == 1  # torch's product of int8 is wrong at a width of 1
    if noise or in_fp32 or workspace.select == "fp32":
        product = select.fp32(x_BD, weights, workspace, floor_F, noise, both_signs)
    else:
        product = select.COARSE[workspace.select](x_BD, weights, workspace, floor_F)
    # no power of two, whose rows would share cache lines; even, for the noise
    width = min(F, max(1, workspace.tile_bytes // (128 * B)) * 32 + 16)
    firsts = range(0, F, width)
    start_KB1 = workspace.array("start", len(firsts) * (B + 1), dtype=np.int64).reshape(len(firsts), B + 1)
    # of these two, only the fronts of rows are ever touched
    column_BT = workspace.array("column", B * width, dtype=np.int32).reshape(B, width)
    z_BT = workspace.array("value", B * width, dtype=number).reshape(B, width)
    end = 0
    for k, first in enumerate(firsts):
        start_KB1[k, 0] = end
        product(first, min(width, F - first), column_BT, z_BT, start_KB1[k])
        end = start_KB1[k, B]
        piece_N, z_N = workspace.array("piece", end, dtype=np.int32), workspace.array("z of piece", end, dtype=number)
        _collect(column_BT, z_BT, first, start_KB1[k], piece_N, z_N)
    start_B1 = np.zeros(B + 1, np.int64)
    np.cumsum(np.diff(start_KB1).sum(0), out=start_B1[1:])
    feature_N, f_N = workspace.array("feature", end, dtype=np.int32), workspace.array("f", end, dtype=number)
    _join(start_KB1, piece_N, z_N, start_B1, feature_N, f_N)
    return Code(start_B1, feature_N, f_N)


@numba.njit(parallel=True, cache=True)
def _collect(column_BT: Any, z_BT: Any, first: int, start_B1: Any, feature_N: Any, z_N: Any) -> None:
    """The fronts of a tile's rows laid end to end."""
    for t in numba.prange(len(start_B1) - 1):
        start = start_B1[t]
        for n in range(start_B1[t + 1] - start):
            feature_N[start + n] = first + column_BT[t, n]
            z_N[start + n] = z_BT[t, n]


@numba.njit(parallel=True, cache=True)
def _join(start_KB1: Any, piece_N: Any, z_N: Any, start_B1: Any, feature_N: Any, f_N: Any) -> None:
    """Each token's entries from all K tiles, side by side."""
    for t in numba.prange(len(start_B1) - 1):
        n = start_B1[t]
        for k in range(len(start_KB1)):
            for m in range(start_KB1[k, t], start_KB1[k, t + 1]):
                feature_N[n], f_N[n] = piece_N[m], z_N[m]
                n += 1
