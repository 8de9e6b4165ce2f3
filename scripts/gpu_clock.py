"""How `check_gpu.py` keeps to its ten minutes: nothing is begun that may not end in time, and what is not is listed."""

from __future__ import annotations

import time
from typing import Any

LATE = "no time left for it"
COMPILE = 60.0
"""Seconds that a `torch.compile` is begun earlier than all else: it has these, and what is spared at the end."""


def late(until: float, takes: float = 0.0) -> bool:
    """Whether what takes so many seconds more than others is not to be begun any more."""
    return time.monotonic() + takes > until


def undone(found: dict[str, Any]) -> list[str]:
    """What there was no time for: checks, parts, and rows of parts."""
    names = [f"checks: {name}" for name in found.get("checks_left_out", [])]
    names += [part.removesuffix("_failed") for part, said in found.items() if said == LATE]
    for part, rows in found.items():
        for row in rows if isinstance(rows, list) else []:
            names += [f"{part}: {column}" for column in _late_columns(row)] if isinstance(row, dict) else []
    return names


def _late_columns(row: dict[str, Any]) -> list[str]:
    """Of a row of timings, which is `not_timed` or has columns that are `COLUMN not timed`."""
    name = " ".join(row[key] for key in ("size", "member", "row") if key in row)
    columns = [key.removesuffix("not timed").strip() for key, said in row.items() if said == LATE]
    return [name if column == "not_timed" else f"{name}, {column}" for column in columns]
