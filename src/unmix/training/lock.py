"""One process a run folder, or a store. The lock is the operating system's: a crash does not leave it behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from unmix.disk import writing
from unmix.errors import UserError

try:
    import fcntl
except ImportError:  # not on this operating system: two processes are then the user's care
    fcntl = None  # type: ignore[assignment]


class Kind(NamedTuple):
    """What a folder is, for messages."""

    name: str
    doing: str
    option: str
    """With which another one is given."""


RUN, STORE = Kind("run", "training in", "--name"), Kind("store", "harvesting into", "--out")


@contextmanager
def locked(folder: Path, kind: Kind = RUN) -> Iterator[None]:
    """Hold `folder/.lock` while inside. Raises `UserError` if another process holds it.

    Everything that decides what a command does to a run is read inside. If nothing came of it, no folder is left.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _hold(folder, kind)
    try:
        yield
    finally:
        with suppress(OSError):  # something was written: the folder stays, and so does its lock
            if made and [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                for path in made:
                    path.rmdir()
        file.close()


def _hold(folder: Path, kind: Kind) -> TextIO:
    path = folder / ".lock"
    while True:
        if folder.exists() and not folder.is_dir():
            raise UserError(
                f"{folder} is a file, and a {kind.name} is a folder; move it away, or give another {kind.option}"
            )
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"another process is {kind.doing} {folder}; wait for it, or give another {kind.option}"
            ) from None
        with suppress(FileNotFoundError):  # one that held it before may have taken the file away
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()
