"""What must be as it was for cached tokens of a source to be used: its files, or its revision on the hub.

A file counts as unchanged if its path, size, inode, and times of change are; none of it is read. The time of the last
change of the inode is among them, which a program cannot set back, as it can that of the content.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from unmix.corpus import hub
from unmix.corpus.folders import below
from unmix.corpus.library import modules
from unmix.disk import at_home
from unmix.errors import UserError


class State(NamedTuple):
    """Of a source, when it was asked for."""

    key: str
    """Another one whenever the documents may be others."""
    commit: str | None = None
    """The revision on the hub that is to be read."""
    doubt: str = ""
    """Why it may not be the newest."""


def state_of(source: str, revision: str | None = None) -> State:
    """The state of `corpus.source`, of a dataset on the hub at a revision.

    Of a path that is not there, it is one that no cached tokens have.

    Raises `UserError` if the files cannot be looked at.
    """
    if source == "stdlib":
        return State(_of_files(modules(Path(sysconfig.get_path("stdlib")))))
    path = at_home(Path(source))
    if source.startswith(hub.PREFIX):
        part = hub.named(source)
        if part.folder is None:
            commit, doubt = hub.revision(part.name, revision)
            return State(json.dumps([source, commit]), commit, doubt)
        path = part.folder
    try:
        return State(_of_files(_files(path)))
    except OSError as error:
        raise UserError(f"cannot read corpus.source = {source}: {error}") from None


def _files(path: Path) -> Iterator[Path]:
    """A file, or those below a folder; those of linked folders too, which the datasets library may read."""
    yield path
    for inside in below(path):
        yield inside
        if inside.is_symlink() and inside.is_dir():
            yield from below(inside)


def _of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            about = path.stat()
            facts = [about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns]
            digest.update(json.dumps([str(path.absolute()), *facts]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
