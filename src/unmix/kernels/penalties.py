"""Terms on sparse rows that are more than a number for each feature: the tanh penalty, and the gate's.

Both are a Σ_n of something of f_n w_n, w_i = ||W_dec_i||₂.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.dictionary.terms import Gate, Tanh
from unmix.kernels.code_cache import numba
from unmix.kernels.find import Code
from unmix.kernels.rows import row_norms
from unmix.kernels.task import Task, Weights


def tanh(code: Code, weights: Weights, task: Task, df_N: Any, tokens: int) -> tuple[float, Tensor | None]:
    """(the sum of a `Tanh`, p: dW_dec_i gets p_i W_dec_i); what f gets goes into df. Without the term, (0, no p)."""
    term = task.term(Tanh)
    if not isinstance(term, Tanh):
        return 0.0, None
    w_F, number = row_norms(weights["W_dec"].numpy()), df_N.dtype.type
    tanh_N, dw_N = np.empty_like(df_N), np.empty_like(df_N)
    each = number(task.coefficient(Tanh) / tokens)
    _tanh(code.features_N, code.values_N, w_F, number(term.scale), each, tanh_N, df_N, dw_N)
    dw_F = by_feature(code.features_N, dw_N, len(w_F))
    # a row of norm 0 has no direction to be pulled in
    pull_F = np.divide(dw_F, w_F, out=np.zeros_like(w_F), where=w_F > 0)
    return float(tanh_N.sum(dtype=np.float64)), torch.from_numpy(pull_F)


def gate(code: Code, weights: Weights, task: Task) -> float:
    """The sum of a `Gate`; `code` has max(z, 0). What it does to z is in `active.back`."""
    if task.term(Gate) is None:
        return 0.0
    w_F = row_norms(weights["W_dec"].numpy())
    return float(by_feature(code.features_N, code.values_N, len(w_F)).astype(np.float64) @ w_F)


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
