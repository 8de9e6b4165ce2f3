"""Numbers as the page has them: four significant digits, none that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 4
FEW = 24  # up to so many, one by one is faster
_EXACT = 22  # powers of ten up to this one are whole numbers in float64


def short(x: float) -> float | None:
    """Four significant digits; nothing for NaN and infinity."""
    return float(f"{x:.{DIGITS}g}") if math.isfinite(x) else None


def rounded(values: Sequence[float] | NDArray[Any]) -> list[float | None]:
    """The same of many: k / 10^d with whole k is the double next to that decimal, so that it prints as one."""
    if len(values) <= FEW:
        return [short(x) for x in (values.tolist() if isinstance(values, np.ndarray) else values)]
    x = np.asarray(values, dtype=np.float64)
    size = np.abs(x)
    plain = np.isfinite(x) & (size >= 10.0 ** (DIGITS - _EXACT)) & (size < 10.0**_EXACT)
    power = DIGITS - 1 - np.floor(np.log10(np.where(plain, size, 1.0)))
    up, down = 10.0 ** np.maximum(power, 0), 10.0 ** np.maximum(-power, 0)
    found: list[float | None] = (np.rint(np.where(plain, x, 0.0) * up / down) / up * down).tolist()
    for n in np.flatnonzero(~plain).tolist():
        found[n] = short(float(x[n]))
    return found
