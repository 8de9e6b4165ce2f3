"""One process a run folder. The lock is the operating system's, so that a crash does not leave it behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unmix.disk import writing
from unmix.errors import UserError

try:
    import fcntl
except ImportError:  # not on this operating system: two processes are then the user's care
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder/.lock` while inside. Raises `UserError` if another process holds it."""
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {folder}; wait for it, or give another --name"
                ) from None
        yield
