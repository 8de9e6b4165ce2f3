"""A short table of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length: the first column to the left, the others to the right. An empty row is an empty line."""
    widths = [max(len(cell) for cell in column) for column in zip(*(row for row in rows if row), strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)] if row else []
        lines.append("   ".join([row[0].ljust(widths[0]), *cells]).rstrip() if row else "")
    return "\n".join(lines)


def ms(seconds: float) -> str:
    """`12.3 ms`."""
    return f"{1e3 * seconds:,.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f} ms"


def machine_line(found: dict[str, Any]) -> str:
    """Where it ran, in one line."""
    m, v = found["machine"], found["versions"]
    threads = f"threads: torch {m['torch_threads']}, numba {m['numba_threads']}"
    return f"{m['cpu']}, cores: {m['cores']}, {threads}; torch {v['torch']}, numba {v['numba']}; {found['date'][:10]}"
