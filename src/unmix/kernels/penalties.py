"""Terms on sparse rows that are more than a number for each feature: the tanh penalty, and the gate's.

Both are a Σ_n of something of f_n w_n, w_i = ||W_dec_i||₂, so that they pull at f and, along its row, at W_dec.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.terms import Gate, Tanh
from unmix.kernels.find import Code
from unmix.kernels.rows import row_norms
from unmix.kernels.task import Task, Weights


def add(
    code: Code, gate: Code, weights: Weights, task: Task, df_N: Any, tokens: int
) -> tuple[float, float, Tensor | None]:
    """(the sum of a `Tanh`, the sum of a `Gate`, p: dW_dec_i gets p_i W_dec_i); what f gets of `Tanh` goes into df.

    `code` has f, `gate` max(z, 0). No p where there is neither term.
    """
    tanh = task.term(Tanh)
    if tanh is None and task.term(Gate) is None:
        return 0.0, 0.0, None
    w_F = row_norms(weights["W_dec"].numpy())
    dw_F, penalty, gates = np.zeros_like(w_F), 0.0, 0.0
    if isinstance(tanh, Tanh):
        each, scale = (df_N.dtype.type(a) for a in (task.coefficient(Tanh) / tokens, tanh.scale))
        tanh_N, dw_N = np.empty_like(df_N), np.empty_like(df_N)
        _tanh(code.features_N, code.values_N, w_F, scale, each, tanh_N, df_N, dw_N)
        penalty, dw_F = float(tanh_N.sum(dtype=np.float64)), dw_F + by_feature(code.features_N, dw_N, len(w_F))
    if task.term(Gate):
        total_F = by_feature(gate.features_N, gate.values_N, len(w_F))
        gates, dw_F = (
            float(total_F.astype(np.float64) @ w_F),
            dw_F + total_F * w_F.dtype.type(task.coefficient(Gate) / tokens),
        )
    # a row of norm 0 has no direction to be pulled in
    return penalty, gates, torch.from_numpy(np.divide(dw_F, w_F, out=np.zeros_like(w_F), where=w_F > 0))


def by_feature(feature_N: Any, value_N: Any, F: int) -> Any:
    """Σ of the values of each feature."""
    return np.bincount(feature_N, weights=value_N, minlength=F).astype(value_N.dtype)


@numba.njit(parallel=True, cache=True)
def _tanh(feature_N: Any, f_N: Any, w_F: Any, scale: Any, each: Any, tanh_N: Any, df_N: Any, dw_N: Any) -> None:
    for n in numba.prange(len(f_N)):
        w, f = w_F[feature_N[n]], f_N[n]
        tanh = np.tanh(scale * f * w)
        slope = each * scale * (1 - tanh * tanh)
        tanh_N[n] = tanh
        df_N[n] += slope * w
        dw_N[n] = slope * f
