"""Which of two lists belong together, one to one, so that the sum of their likenesses is largest.

The assignment problem, by shortest augmenting paths with prices u of rows and v of columns (Kuhn's Hungarian method in
the form of Jonker & Volgenant 1987, for R <= C rows and columns as in Crouse 2016). Throughout, the slack
cost_rc - u_r - v_c is never negative, and 0 where r and c are matched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.kernels.code_cache import numba


def best_matching(likeness_RC: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) of the min(R, C) pairs, rows ascending. float32 or float64; every number finite."""
    if likeness_RC.shape[0] > likeness_RC.shape[1]:
        columns_K, rows_K = best_matching(likeness_RC.T)
        order_K = rows_K.argsort()
        return rows_K[order_K], columns_K[order_K]
    column_R = _match(likeness_RC.detach().contiguous().numpy())
    return torch.arange(len(column_R)), torch.from_numpy(column_R)


@numba.njit(cache=True)
def _match(likeness_RC: Any) -> Any:
    """The column of each row."""
    R, C = likeness_RC.shape
    u_R, v_C = np.empty(R), np.zeros(C)
    column_R, row_C = np.full(R, -1), np.full(C, -1)
    for r in range(R):  # each row its nearest column, as long as nobody has it
        best = 0
        for c in range(C):
            if likeness_RC[r, c] > likeness_RC[r, best]:
                best = c
        u_R[r] = -np.float64(likeness_RC[r, best])
        if row_C[best] < 0:
            row_C[best], column_R[r] = r, best
    way_C, from_C, seen_C, left_C = np.empty(C), np.empty(C, np.int64), np.empty(C, np.bool_), np.empty(C, np.int64)
    for start in range(R):
        if column_R[start] >= 0:
            continue
        # Dijkstra over the columns by slack, from the row without one to the nearest column without a row
        way_C[:], seen_C[:], left = np.inf, False, C
        for c in range(C):
            left_C[c] = c
        r, reached, end = start, 0.0, -1
        while end < 0:
            nearest, at = np.inf, -1
            for i in range(left):
                c = left_C[i]
                way = reached - np.float64(likeness_RC[r, c]) - u_R[r] - v_C[c]
                if way < way_C[c]:
                    way_C[c], from_C[c] = way, r
                if way_C[c] < nearest or (way_C[c] == nearest and row_C[c] < 0):
                    nearest, at = way_C[c], i
            reached, c = nearest, left_C[at]
            seen_C[c] = True
            left -= 1
            left_C[at] = left_C[left]
            if row_C[c] < 0:
                end = c
            else:
                r = row_C[c]
        for c in range(C):  # prices that keep every slack as it has to be
            if seen_C[c]:
                if row_C[c] >= 0:
                    u_R[row_C[c]] += reached - way_C[c]
                v_C[c] -= reached - way_C[c]
        u_R[start] += reached
        c = end
        while True:  # every row on the path takes the next column
            r = from_C[c]
            row_C[c] = r
            column_R[r], c = c, column_R[r]
            if r == start:
                break
    return column_R
