"""Tables, of which one column is read: CSV and TSV with a header, Parquet, Arrow (as `datasets` saves it)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.corpus.compressed import opened
from unmix.corpus.content import Content, Ids
from unmix.corpus.records import content_of
from unmix.corpus.unfit import Unfit
from unmix.errors import UserError

_PARQUET_ROWS = 1024
_LONGEST_CELL = 2**31 - 1
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # Arrow columnar format, "IPC Streaming Format"


def comma_separated(path: Path, field: str) -> Iterator[str]:
    """The column `field` of a .csv; see `_separated`."""
    return _separated(path, field, ",")


def tab_separated(path: Path, field: str) -> Iterator[str]:
    """The column `field` of a .tsv; see `_separated`."""
    return _separated(path, field, "\t")


def _separated(path: Path, field: str, delimiter: str) -> Iterator[str]:
    """The column that the header calls `field`.

    Raises `Unfit` if the header has no such column, `UserError` if a row has more or fewer columns than the header (a
    comma within a text that is not quoted would cut it), is badly quoted, or is not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)  # one for the whole process; its default refuses texts over 131,072 characters
    with TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if field not in header:
                try:
                    content_of(dict.fromkeys(header), field, str(path))
                except UserError as error:
                    raise Unfit(str(error), f"without {field!r}") from None
            at = header.index(field)
            for row in rows:
                if row and len(row) != len(header):
                    raise UserError(
                        f"{path}, line {rows.line_num} has {len(row)} columns, the header {len(header)}; "
                        f'quote texts that hold a {"tab" if delimiter != "," else "comma"} or a line end ("…")'
                    )
                if row:
                    yield row[at]
        except csv.Error as error:
            raise UserError(
                f"{path}, line {rows.line_num}: {error}; a quote in it is not closed or not doubled, or the file is cut"
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 (after line {rows.line_num}); convert it first") from None


def parquet(path: Path, field: str) -> Iterator[Content]:
    """The column `field`, a batch of rows at a time.

    Raises `UserError`: no pyarrow, damaged, no text, token ids or chats in `field`.
    """
    with _naming(path, "Parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names

            def first() -> dict[str, Any]:
                rows = next(file.iter_batches(batch_size=1), None)
                return rows.to_pylist()[0] if rows is not None and len(rows) else dict.fromkeys(names)

            if field not in names:
                content_of(first(), field, str(path))
            yield from _column(file.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]), field, path, first)


def arrow(path: Path, field: str) -> Iterator[Content]:
    """The column `field` of a stream or file in Arrow's IPC format. Raises `UserError` as `parquet` does."""
    with _naming(path, "Arrow"):
        import pyarrow as pa

        with pa.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                file.seek(max(0, file.size() - 8))
                if file.read(8) != _END_OF_STREAM:  # cut between two batches, it would read as a shorter one
                    raise UserError(f"{path} is not readable Arrow: its end is missing; fetch or save it again")
                file.seek(0)
                reader = batches = pa.ipc.open_stream(file)
            names = reader.schema.names
            if field not in names:
                rows = next((batch for batch in batches if len(batch)), None)
                record = dict.fromkeys(names) if rows is None else rows.slice(0, 1).to_pylist()[0]
                content_of(record, field, str(path))
            yield from _column(batches, field, path)


def _column(
    batches: Any, field: str, path: Path, others: Callable[[], dict[str, Any]] = dict[str, Any]
) -> Iterator[Content]:
    """The contents of one column; `others` gives a row with the columns that the batches lack, for the remedy alone."""
    row = 0
    for batch in batches:
        column = batch.column(batch.schema.names.index(field))
        integers = _rows_of_integers(column)
        for value in column.to_pylist() if integers is None else integers:
            row += 1
            if value is None or isinstance(value, str):
                yield value or ""
            elif isinstance(value, np.ndarray):
                yield Ids(value, f"{path}, row {row}")
            else:
                where = f"{path}, row {row}"
                try:
                    content = content_of({field: value}, field, where)
                except UserError:  # said again, with what the other columns hold
                    record = {**others(), **batch.slice(0, 1).to_pylist()[0], field: value}
                    content = content_of(record, field, where)
                yield content


def _rows_of_integers(column: Any) -> list[NDArray[Any] | None] | None:
    """The rows of a column of lists of integers as arrays, None for null; None for any other column."""
    import pyarrow as pa

    types, kind = pa.types, column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not types.is_integer(kind.value_type) or column.null_count:
        return None
    values = column.flatten()
    if values.null_count:
        return None
    flat = values.to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return [*np.split(flat, np.cumsum(lengths)[:-1])] if len(lengths) else []


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    """Says which file of many it was that pyarrow could not read."""
    try:
        import pyarrow as pa
    except ImportError:
        raise UserError(f"reading {path} wants pyarrow: pip install pyarrow") from None
    try:
        yield
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not readable {kind}: {why}") from None
