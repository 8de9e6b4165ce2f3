"""Files that outlive a crash: written beside their place, flushed to disk, renamed; and one line where that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmix.errors import UserError

_NO_ROOM = "make room"
_NOT_WRITABLE = "make it writable, or write elsewhere"
_IN_THE_WAY = "move away what stands in its place"
_REMEDIES = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EROFS: _NOT_WRITABLE,
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
}
REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
"""What a system says when it will not have a file written."""


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Says in one line which path could not be written, and what to do: `remedy`, if it is one for every cause.

    Raises `UserError` for any `OSError`.
    """
    try:
        yield
    except OSError as error:
        cause = _REMEDIES.get(error.errno or 0, "mend that")
        whole = f"{cause} and give the same command again: what was saved before is whole"
        raise UserError(f"cannot write {path} ({error.strerror or error}); {remedy or whole}") from None


@contextmanager
def replacing(path: Path, *, shared: bool = False, remedy: str = "") -> Iterator[Path]:
    """A path to write to; flushed and renamed to `path` at the end, so that a reader sees the old file or the new one.

    Nothing is left of it if anything is raised on the way. `shared`: other processes may be writing the same file, so
    the name is this one's own. Raises `UserError` if it cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}" if shared else f"{path.name}.new")
    with writing(path, remedy):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield new
            flush(new)
            new.replace(path)
            flush(path.parent)
        finally:
            with suppress(OSError):
                new.unlink()


def at_home(path: Path) -> Path:
    """`~` in front as the user's home: in Python, and behind `--option=`, no shell has seen it. Other paths, and those
    of a name that merely begins so, as they are."""
    try:
        return path.expanduser()
    except RuntimeError:  # `~x` of no user, or no home
        return path


def flush(path: Path) -> None:
    """Have the system bring a file, or the names in a folder, to the disk."""
    windows = os.name == "nt"
    if path.is_dir() and windows:  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # there, only who may write may flush
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raises `UserError` if `needed` bytes more cannot fit where `folder` is or will be."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what} need {size(needed)} in {folder}, where {size(free)} are free; make room, write less, "
            "or give --force to begin anyway"
        )


def size(count: float) -> str:
    """`1.5 GB`."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count:.0f} bytes"
