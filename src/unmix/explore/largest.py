"""The k largest of every row, with ties settled: of equal values the lowest column comes first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.kernels.code_cache import numba

Rows = tuple[NDArray[np.int64], NDArray[np.float32]]


def largest(values_BN: NDArray[np.float32], k: int) -> Rows:
    """(columns_Bk, values_Bk), falling; NaN counts as the smallest. Where N < k, the rest is column -1, value -inf."""
    columns_Bk = np.full((len(values_BN), k), -1, dtype=np.int64)
    found_Bk = np.full((len(values_BN), k), -np.inf, dtype=np.float32)
    _largest(values_BN, columns_Bk, found_Bk)
    return columns_Bk, found_Bk


@numba.njit(cache=True)
def _largest(values_BN: Any, columns_Bk: Any, found_Bk: Any) -> None:
    for b in range(values_BN.shape[0]):
        for n in range(values_BN.shape[1]):
            place(values_BN[b, n], n, columns_Bk[b], found_Bk[b])


@numba.njit(cache=True, inline="always")
def place(value: Any, column: int, columns_k: Any, found_k: Any) -> None:
    """Put a value where it belongs among the k largest so far, behind its equals; columns come in rising order."""
    k = found_k.shape[0]
    if value > found_k[k - 1]:
        at = k - 1
        while at > 0 and value > found_k[at - 1]:
            found_k[at], columns_k[at] = found_k[at - 1], columns_k[at - 1]
            at -= 1
        found_k[at], columns_k[at] = value, column
