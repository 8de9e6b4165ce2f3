"""The active entries of a batch alone."""

from __future__ import annotations

from typing import Any, NamedTuple


class Code(NamedTuple):
    """Sparse rows: token t has the entries starts[t] … starts[t + 1], their features ascending."""

    starts_B1: Any
    features_N: Any
    values_N: Any
