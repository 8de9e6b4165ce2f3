"""Files that can be made again: where they are kept, and how they are written whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unmix.errors import UserError


def cache_folder() -> Path:
    """`$UNMIX_CACHE`, else `~/.cache/unmix`; it need not exist yet."""
    named = os.environ.get("UNMIX_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "unmix"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to it at the end, removed if anything is raised on the way.

    Raises `UserError` if the folder cannot be written to, or the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); set UNMIX_CACHE to a folder with room"
        ) from None
    finally:
        with suppress(OSError):
            unfinished.unlink()


def remembered(what: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` answers, plain data; kept in `measured/`, so that it is measured once for each `what`.

    A file that is damaged is measured anew and replaced.
    """
    key = json.dumps(what, sort_keys=True)
    path = cache_folder() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["what"] == json.loads(key):
            found: dict[str, Any] = kept["found"]
            return found
    found = measure()
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps({"what": what, "found": found}, indent=1) + "\n", encoding="utf-8")
    return found
