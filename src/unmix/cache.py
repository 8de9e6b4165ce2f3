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


def cache_folder() -> Path:
    """`$UNMIX_CACHE`, else `~/.cache/unmix`; it need not exist yet."""
    named = os.environ.get("UNMIX_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "unmix"


def written_whole(path: Path) -> AbstractContextManager[Path]:
    """A path beside `path` to write to, see `disk.replacing`. Raises `UserError` if it cannot be written."""
    return replacing(path, shared=True, remedy="set UNMIX_CACHE to a folder with room")


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
