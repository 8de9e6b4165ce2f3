"""JSON Lines, and JSON: an array of records, or JSON Lines under the name `.json`. An object is no corpus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unmix.corpus.compressed import opened
from unmix.corpus.content import Content
from unmix.corpus.records import content_of, is_bare
from unmix.corpus.unfit import Unfit
from unmix.errors import UserError


def json_lines(path: Path, field: str) -> Iterator[Content]:
    """What `field` of each line's record holds, or a line that is a list of messages or ids; blank lines are left out.

    Raises `UserError`, naming file and line: not UTF-8, not JSON, no object, nothing to read in `field`.
    """
    for where, record in _lines(path):
        if is_bare(record):
            yield content_of({field: record}, field, where)
        elif not isinstance(record, dict):
            raise UserError(f'{where} holds a {type(record).__name__}; want an object such as {{"{field}": "…"}}')
        else:
            yield content_of(record, field, where)


def json_file(path: Path, field: str) -> Iterator[Content]:
    """What `field` of each record of an array holds (it is held in memory whole), or of each line.

    Raises `Unfit` if there are no records or they have no `field`, `UserError` as `json_lines` does.
    """
    if _is_lines(path):
        yield from _checked(_lines(path), field)
    else:
        records = _array(path)
        yield from _checked(((f"{path}, record {n}", record) for n, record in enumerate(records, 1)), field)


def _checked(records: Iterator[tuple[str, Any]], field: str) -> Iterator[Content]:
    """Their contents; unfit if the first has no such field: much that is JSON was never meant as a corpus."""
    for n, (where, record) in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{where} holds a {type(record).__name__}; want an object")
        try:
            yield content_of(record, field, where)
        except UserError as error:
            if n or field in record:
                raise
            raise Unfit(str(error), f"without {field!r}") from None


def _is_lines(path: Path) -> bool:
    """Whether the first line is an object and not the whole of the file."""
    with opened(path) as file:
        lines = (line for line in file if line.strip())
        first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
        if not first.lstrip().startswith(b"{") or next(lines, None) is None:
            return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                raise UserError(f"{where} is not UTF-8; convert the file first") from None
            except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits, too deep a nesting
                raise UserError(f"{where} is not JSON ({_why(error)}); mend or remove that line") from None
            yield where, record


def _array(path: Path) -> list[Any]:
    with opened(path) as file:
        raw = file.read()
    try:
        found = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unfit(f"{path} is not UTF-8; convert it first", "not UTF-8") from None
    except (ValueError, RecursionError) as error:
        said = f"{path} is not JSON ({_why(error)}); mend or remove it"
        if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", raw):  # records, cut or damaged
            raise UserError(said) from None
        raise Unfit(said, "not JSON") from None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise Unfit(
            f"{path} is no array of records; give one, or rename the file .jsonl if each line is a record",
            "JSON without records",
        )
    return found


def _why(error: Exception) -> str:
    return str(getattr(error, "msg", "")) or (str(error).strip() or type(error).__name__).splitlines()[0]
