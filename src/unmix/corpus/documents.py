"""Documents, one after the other, from whatever the recipe's `corpus.source` names.

A document's key decides its side of the split (see `split.py`): the path for the standard library, the text
everywhere else. Order is deterministic (files sorted by path, records as stored); whoever packs, shuffles.
Empty documents are left out. Memory holds one document, or one batch of Parquet rows.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from unmix.config import CorpusConfig
from unmix.errors import UserError

DATASETS = "datasets:"
_PARQUET_ROWS = 1024
_PIECE_CHARACTERS = 10_000


class Document(NamedTuple):
    """One text."""

    key: str
    """What the split is decided by."""
    text: str
    """Never empty; always encodes as UTF-8."""


def documents(config: CorpusConfig) -> Iterator[Document]:
    """All documents of both splits, in a fixed order.

    Raises `UserError`: nothing at this path, no such field or column, a broken line of JSON, bytes that are not
    UTF-8, or no document found.
    """
    try:
        found = _of_source(config)
        first = next(found, None)
        if first is None:
            raise UserError(f"no document in corpus.source = {config.source}; give text files, .jsonl or .parquet")
        yield from chain([first], found)
    except OSError as error:
        raise UserError(f"cannot read corpus.source = {config.source}: {error}") from None


def _of_source(config: CorpusConfig) -> Iterator[Document]:
    source, path = config.source, Path(config.source).expanduser()
    if source == "stdlib":
        return _standard_library(Path(sysconfig.get_path("stdlib")))
    if source.startswith(DATASETS):
        return _by_text(_datasets(source, config.field))
    if path.is_dir():
        return _by_text(_folder(path, config.field))
    if not path.exists():
        raise UserError(
            f"corpus.source = {source}: no such file or folder; give a path, stdlib, or datasets:NAME[:CONFIG[:SPLIT]]"
        )
    if path.suffix == ".jsonl":
        return _by_text(_jsonl(path, config.field))
    if path.suffix == ".parquet":
        return _by_text(_parquet(path, config.field))
    return _by_text(_file(path))


def _by_text(texts: Iterator[str]) -> Iterator[Document]:
    for text in texts:
        if text.strip():
            whole = text.encode("utf-8", "replace").decode("utf-8")  # JSON may escape half a surrogate pair
            yield Document(whole, whole)


def _standard_library(root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*.py")):
        key = path.relative_to(root).as_posix()
        if key.startswith(("site-packages/", "_sysconfigdata", "config-")) or "/_sysconfigdata" in key:
            continue  # other people's code; build paths of one machine
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield Document(key, text)


def _folder(root: Path, field: str) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or not path.is_file():
            continue
        if path.suffix == ".jsonl":
            yield from _jsonl(path, field)
        elif path.suffix == ".parquet":
            yield from _parquet(path, field)
        else:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if "\0" not in text:  # binary that happens to decode
                yield text


def _file(path: Path) -> Iterator[str]:
    """A file in pieces, cut at ends of lines: a book that was one document would be all trained on, or all held out."""
    piece: list[str] = []
    size = offset = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                piece.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text (byte {offset + error.start}); convert it first") from None
            offset += len(line)
            size += len(piece[-1])
            if size >= _PIECE_CHARACTERS:
                yield "".join(piece)
                piece, size = [], 0
    yield "".join(piece)


def _jsonl(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise UserError(f"{where} is not UTF-8; convert the file first") from None
            except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits, too deep a nesting
                why = getattr(error, "msg", _line(error))
                raise UserError(f"{where} is not JSON ({why}); mend or remove that line") from None
            if not isinstance(record, dict):
                raise UserError(f'{where} holds a {type(record).__name__}; want an object such as {{"{field}": "…"}}')
            yield _text(record, field, where)


def _parquet(path: Path, column: str) -> Iterator[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"reading {path} wants pyarrow: pip install pyarrow") from None
    try:
        with pq.ParquetFile(path) as file:
            _check_field(column, file.schema_arrow.names, str(path))
            row = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _text({column: value}, column, f"{path}, row {row}")
    except pa.ArrowException as error:
        raise UserError(f"{path} is not readable Parquet: {_line(error)}") from None


def _datasets(source: str, field: str) -> Iterator[str]:
    name, _, rest = source.removeprefix(DATASETS).partition(":")
    config, _, split = rest.partition(":")
    if not name:
        raise UserError(f"corpus.source = {source} names no dataset; write datasets:NAME[:CONFIG[:SPLIT]]")
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"corpus.source = {source} wants the datasets library: pip install datasets") from None
    try:
        for number, record in enumerate(load_dataset(name, config or None, split=split or "train", streaming=True), 1):
            yield _text(record, field, f"{source}, record {number}")
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds: hub, network, script, split
        raise UserError(f"cannot read corpus.source = {source}: {_line(error)}") from None


def _text(record: dict[str, Any], field: str, where: str) -> str:
    _check_field(field, list(record), where)
    value = record[field]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {field!r} holds a {type(value).__name__}, not text; choose another corpus.field")
    return value


def _check_field(field: str, there: list[str], where: str) -> None:
    if field not in there:
        raise UserError(f"{where} has no {field!r}; set corpus.field to one of: {', '.join(there) or '(none)'}")


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
