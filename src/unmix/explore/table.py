"""`features/MEMBER.parquet`: one row a feature, the columns of the page's list, for whoever wants them in a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = ("density", "max", "mean", "entropy", "top_share", "nearest_cos", "first", "long")


def features_table(columns: dict[str, list[Any]], firings_F: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """feature, firings, NUMBERS (NaN where there is none), nearest, label."""
    found: dict[str, NDArray[Any]] = {"feature": np.arange(len(firings_F), dtype=np.uint32), "firings": firings_F}
    for name in NUMBERS:
        found[name] = np.array([np.nan if value is None else value for value in columns[name]], dtype=np.float64)
    found["nearest"] = np.array(columns["nearest"], dtype=np.int64)
    found["label"] = np.array(columns["label"], dtype=object)
    return found
