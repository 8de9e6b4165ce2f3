"""Parquet files by DuckDB, which is imported when it is first needed: it comes with `unmix[explore]`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.errors import UserError

ROW_GROUP = 122_880  # rows, DuckDB's own size: what one feature's entries are found in
MEMORY = "1GB"  # what all queries at one time may hold; the arrays that they answer in come on top
Columns = Mapping[str, NDArray[Any]]


@contextmanager
def connected() -> Iterator[Any]:
    """A connection of its own to this process' database in memory. Raises `UserError` where DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        raise UserError("the explorer needs duckdb, which is not installed; pip install 'unmix[explore]'") from None
    with closing(_database().cursor()) as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


@cache
def _database() -> Any:
    """Opened once: 15 ms, where a connection to it takes 0.1. It has no tables, and keeps nothing of files read."""
    import duckdb

    config: dict[str, Any] = {"threads": os.cpu_count() or 1, "memory_limit": MEMORY}
    return duckdb.connect(config=config | {"enable_external_file_cache": False})


def write_parquet(path: Path, columns: Columns) -> None:
    """The columns as one file, rows in their order. Not atomic: the caller renames."""
    with connected() as connection:
        connection.register("given", dict(columns))
        how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}"
        connection.execute(f"COPY (SELECT * FROM given) TO {quoted(path)} ({how})")


def read_parquet(paths: Sequence[Path], columns: Sequence[str], where: str = "") -> dict[str, NDArray[Any]]:
    """The columns of the files laid end to end, those rows of which `where` is true."""
    condition = f" WHERE {where}" if where else ""
    return _fetched(f"SELECT {', '.join(columns)} FROM {_of(paths)}{condition}")


def count_by(paths: Sequence[Path], column: str) -> dict[str, NDArray[Any]]:
    """How many rows (`n`) there are of each value of a column, in no order."""
    return _fetched(f"SELECT {column}, count(*) AS n FROM {_of(paths)} GROUP BY {column}")


def _fetched(asked: str) -> dict[str, NDArray[Any]]:
    with connected() as connection:
        return {name: _array(column) for name, column in connection.execute(asked).fetchnumpy().items()}


def _array(column: Any) -> NDArray[Any]:
    """NaN is written as NULL, and read as a masked value, below which stands 0."""
    return column.filled(np.nan) if np.ma.is_masked(column) else np.asarray(column)


def _of(paths: Sequence[Path]) -> str:
    """These files and no others, with their own columns alone: DuckDB would take `run[1]` for a pattern, which `run1`
    fits, and of a folder `id=5` it would make the column `id`, in the place of the file's."""
    return f"read_parquet([{', '.join(quoted(_literal(path)) for path in paths)}], hive_partitioning = false)"


def _literal(path: Path) -> str:
    """A pattern that this path alone fits."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def quoted(path: Path | str) -> str:
    """As a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
