"""Documents, one after the other, from whatever the recipe's `corpus.source` names.

A document's key decides its side of the split (see `split.py`): the path for the standard library, the text
everywhere else. Order is deterministic (files sorted by path, records as stored); whoever packs, shuffles.
Records that are empty, null or white space are left out and counted. Memory holds one document, one batch of rows, or
one JSON array.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from unmix.config import CorpusConfig
from unmix.corpus import folders, hub, library
from unmix.corpus.files import READ, read
from unmix.corpus.saved import is_saved, saved
from unmix.corpus.text_files import pieces
from unmix.corpus.unfit import PassedOver, Unfit
from unmix.errors import UserError

Say = Callable[[str], None]


class Document(NamedTuple):
    """One text."""

    key: str
    """What the split is decided by."""
    text: str
    """Never empty; always encodes as UTF-8."""


def silent(text: str) -> None:
    """A `say` for those who need not know."""


def documents(config: CorpusConfig, say: Say = silent, commit: str | None = None) -> Generator[Document]:
    """All documents of both splits, in a fixed order; of a dataset on the hub, as it was at `commit`.

    When the reading ends, or is ended, `say` is given a line on the files that were passed over, if any were, and one
    on the records so far that were empty.
    Raises `UserError`: nothing at this path, a file that is no text, no such field or column, a broken record, bytes
    that are not UTF-8, a damaged file (which is named), or no document found.
    """
    passed = PassedOver()
    count = empty = 0
    try:
        for key, text in _of_source(config, passed, say, commit):
            if text.strip():
                count += 1
                yield Document(key, text)
            else:
                empty += 1
    except OSError as error:
        raise UserError(f"cannot read corpus.source = {config.source}: {error}") from None
    finally:
        if count and str(passed):
            say(str(passed))
        if count and empty:
            verbs = ("is", "was") if empty == 1 else ("are", "were")
            say(f"{empty:,} of {count + empty:,} records {verbs[0]} empty and {verbs[1]} left out")
    if not count:
        why = f"; all of its {empty:,} records are empty" if empty else ""
        why += f"; {passed}; {passed.why}" if str(passed) else f"; give {READ}"
        raise UserError(f"no document in corpus.source = {config.source}{why}")


def _of_source(config: CorpusConfig, passed: PassedOver, say: Say, commit: str | None) -> Iterator[tuple[str, str]]:
    if config.source == "stdlib":
        return library.texts(Path(sysconfig.get_path("stdlib")))
    return _by_text(_texts(config, passed, say, commit))


def _texts(config: CorpusConfig, passed: PassedOver, say: Say, commit: str | None) -> Iterator[str]:
    source, field, path, split = config.source, config.field, Path(config.source).expanduser(), ""
    if source.startswith(hub.PREFIX):
        part = hub.named(source)
        if part.folder is None or not is_saved(part.folder):
            return hub.streamed(source, field, commit)
        if part.config:
            raise UserError(f"{part.folder} has no configurations; write datasets:{part.folder}::SPLIT")
        path, split = part.folder, part.split
    if is_saved(path):
        return saved(path, field, split, say)
    if path.is_dir():
        return folders.texts(path, field, passed)
    if path.is_file():
        return _of_file(path, field)
    if path.exists():
        raise UserError(f"corpus.source = {source} is neither a file nor a folder; give {READ}")
    raise UserError(
        f"corpus.source = {source}: no such file or folder; give a path, stdlib, or datasets:NAME[:CONFIG[:SPLIT]]"
    )


def _of_file(path: Path, field: str) -> Iterator[str]:
    try:
        yield from read(path, field, pieces)
    except Unfit as unfit:
        if unfit.kind != "empty":
            raise


def _by_text(texts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        whole = text.encode("utf-8", "replace").decode("utf-8")  # JSON may escape half a surrogate pair
        yield whole, whole
