"""Documents, one after the other, from whatever one source of the recipe's `corpus` names.

A document's key decides its side of the split (see `split.py`): the path for the standard library, the text, the ids,
or the messages everywhere else. Order is deterministic (files sorted by path, records as stored); whoever packs,
shuffles. Records that are empty, null or white space are left out and counted. Memory holds one document, one batch of
rows, or one JSON array.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from unmix.config.corpus import SourceConfig
from unmix.corpus import folders, hub, library
from unmix.corpus.content import NAMES, Chat, Content, Ids
from unmix.corpus.files import READ, read
from unmix.corpus.saved import is_saved, saved
from unmix.corpus.streams import NO_MARKS, Marks, cut
from unmix.corpus.text_files import pieces
from unmix.corpus.unfit import PassedOver, Unfit
from unmix.disk import at_home
from unmix.errors import UserError

Say = Callable[[str], None]


class Document(NamedTuple):
    """One document."""

    key: str
    """What the split is decided by."""
    content: Content
    """Never empty; a text always encodes as UTF-8."""


def silent(text: str) -> None:
    """A `say` for those who need not know."""


def documents(
    config: SourceConfig, say: Say = silent, commit: str | None = None, marks: Marks = NO_MARKS
) -> Generator[Document]:
    """All documents of both splits, in a fixed order; of a dataset on the hub, as it was at `commit`.

    A stream of token ids is cut into documents at `marks`. When the reading ends, or is ended, `say` is given a line on
    the files that were passed over, if any were, and one on the records so far that were empty.
    Raises `UserError`: nothing at this path, a file that is no text, no such field or column, a broken record, bytes
    that are not UTF-8, a damaged file (which is named), texts beside token ids or chats, or no document found.
    """
    passed = PassedOver()
    count = empty = 0
    kind: type | None = None
    try:
        for key, content in _of_source(config, passed, say, commit, marks):
            if _is_empty(content):
                empty += 1
                continue
            if type(content) is not kind:
                _check_kind(config, kind, content)
                kind = type(content)
            count += 1
            yield Document(key, content)
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


def _is_empty(content: Content) -> bool:
    if isinstance(content, str):
        return not content.strip()
    return not len(content.ids) if isinstance(content, Ids) else not content.messages


def _check_kind(config: SourceConfig, before: type | None, content: Content) -> None:
    """Raises `UserError` where kinds are mixed, or where the recipe asks for what this kind has not."""
    kind = type(content)
    where = config.source if isinstance(content, str) else content.where
    if before is not None:
        raise UserError(
            f"{where} holds {NAMES[kind]}, and what was read of {config.source} before holds {NAMES[before]}; "
            "give them as two sources"
        )
    wants = {
        "roles": (config.roles or None, Chat),
        "template_tokens": (config.template_tokens, Chat),
        "template": (config.template, Chat),
        "packed": (config.packed, Ids),
        "ids_dtype": (config.ids_dtype, Ids),
    }
    for name, (value, wanted) in wants.items():
        if value is not None and kind is not wanted:
            raise UserError(
                f"corpus.{name} is for {NAMES[wanted]}, and {where} holds {NAMES[kind]}; leave it out, or name another "
                f"field than {config.field!r} in corpus.field"
            )


def _of_source(
    config: SourceConfig, passed: PassedOver, say: Say, commit: str | None, marks: Marks
) -> Iterator[tuple[str, Content]]:
    if config.source == "stdlib":
        return library.texts(Path(sysconfig.get_path("stdlib")))
    return _keyed(_contents(config, passed, say, commit), marks)


def _contents(config: SourceConfig, passed: PassedOver, say: Say, commit: str | None) -> Iterator[Content]:
    source, path, split = config.source, at_home(Path(config.source)), ""
    if source.startswith(hub.PREFIX):
        part = hub.named(source)
        if part.folder is not None and config.revision is not None:
            raise UserError(f"corpus.revision = {config.revision}: {part.folder} is on this disk; leave it out")
        if part.folder is None or not is_saved(part.folder):
            return hub.streamed(source, config.field, commit)
        if part.config:
            raise UserError(f"{part.folder} has no configurations; write datasets:{part.folder}::SPLIT")
        path, split = part.folder, part.split
    if is_saved(path):
        return saved(path, config, split, say)
    if path.is_dir():
        return folders.contents(path, config, passed)
    if path.is_file():
        return _of_file(path, config)
    if path.exists():
        raise UserError(f"corpus.source = {source} is neither a file nor a folder; give {READ}")
    raise UserError(
        f"corpus.source = {source}: no such file or folder; give a path, stdlib, or datasets:NAME[:CONFIG[:SPLIT]]"
    )


def _of_file(path: Path, config: SourceConfig) -> Iterator[Content]:
    try:
        yield from read(path, config, pieces)
    except Unfit as unfit:
        if unfit.kind != "empty":
            raise


def _keyed(contents: Iterator[Content], marks: Marks) -> Iterator[tuple[str, Content]]:
    for content in contents:
        if isinstance(content, str):
            whole = content.encode("utf-8", "replace").decode("utf-8")  # JSON may escape half a surrogate pair
            yield whole, whole
        elif isinstance(content, Chat):
            turns = [[message["role"], message["content"]] for message in content.messages]
            yield json.dumps(turns, ensure_ascii=False), content
        else:
            for ids in cut(content, marks):
                yield hashlib.sha256(ids.ids.astype("<i8").tobytes()).hexdigest(), ids
