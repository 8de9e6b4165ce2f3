"""Files that can be made again: where they are kept, and how they are written whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from unmix.disk import replacing
from unmix.errors import UserError

_said: set[Path] = set()
"""Folders of which this process has said that they cannot be written."""


def cache_folder() -> Path:
    """`$UNMIX_CACHE`, else `~/.cache/unmix`; it need not exist yet. Raises `UserError` if no home is known."""
    named = os.environ.get("UNMIX_CACHE")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "unmix"
    except RuntimeError as error:
        raise UserError(f"the cache has no place ({error}); set UNMIX_CACHE to a folder") from None


def written_whole(path: Path) -> AbstractContextManager[Path]:
    """A path beside `path` to write to, see `disk.replacing`. Raises `UserError` if it cannot be written."""
    return replacing(path, shared=True, remedy="set UNMIX_CACHE to a folder with room")


def remembered(
    what: dict[str, Any], measure: Callable[[], dict[str, Any]], say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """What `measure` answers, plain data; kept in `measured/`, so that it is measured once for each `what`.

    A file that is damaged is measured anew and replaced. Where none can be written the answer is the same, and `say` is
    given a line, once for each folder.
    """
    key = json.dumps(what, sort_keys=True)
    path = Path("measured") / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, UserError):
        kept = json.loads((cache_folder() / path).read_text(encoding="utf-8"))
        if kept["what"] == json.loads(key):
            found: dict[str, Any] = kept["found"]
            return found
    found = measure()
    try:
        with written_whole(cache_folder() / path) as unfinished:
            unfinished.write_text(json.dumps({"what": what, "found": found}, indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        _say_once(error, say)
    return found


def _say_once(error: UserError, say: Callable[[str], None] | None) -> None:
    folder = Path()
    with suppress(UserError):
        folder = cache_folder()
    if say is not None and folder not in _said:
        _said.add(folder)
        say(f"warning: what was measured is not kept, and is measured again by the next run: {error}")
