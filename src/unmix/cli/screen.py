"""A screen of named lines: a table on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable


def show(lines: Iterable[tuple[str, str]]) -> None:
    """Print (name, text) pairs; a text may have several lines."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        for name, text in lines:
            print(f"{name:<11}" + text.replace("\n", f"\n{'':<11}"))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in lines:
        table.add_row(name, text)
    console.print(table)
