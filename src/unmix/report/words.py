"""Numbers as a reader wants them: three significant digits, thousands apart, a dash where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"


def number(value: float) -> str:
    """1234.5 -> 1,234 · 41.96 -> 42.0 · 0.01234 -> 0.0123 · NaN -> –"""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits <= 0:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if digits <= 6 else f"{value:.2e}"


def whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def between(low: float, high: float) -> str:
    """1,600 to 25,600; one number where both are the same."""
    return whole(low) if low == high or math.isnan(low) else f"{whole(low)} to {whole(high)}"


def coefficient(value: float) -> str:
    """As the recipe says it: 50, 0.5, 1e-05."""
    return f"{value:g}" if math.isfinite(value) else MISSING


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else MISSING


def fixed(value: float | None, decimals: int = 3) -> str:
    """Always so many decimals, so that a column can be compared; a sign for what is not known."""
    known = value is not None and math.isfinite(value)
    return f"{value:z.{decimals}f}".replace("-", "−") if known else MISSING


def share(value: float) -> str:
    """1/32, which is one of the field's constants; else as the recipe says it."""
    return "1/32" if value == 1 / 32 else coefficient(value)


def amount(value: float) -> str:
    """71,680,000 -> 71.7 million; for prose."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return whole(value)


def tick(value: float) -> str:
    """35000 -> 35k · 71.7e6 -> 71.7M; for an axis."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}" if math.isfinite(value) else MISSING


def duration(seconds: float) -> str:
    """4000 -> 1 h 7 min"""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"


def listed(names: Sequence[str]) -> str:
    """a · a and b · a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
