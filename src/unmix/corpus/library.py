"""Python's own standard library, the corpus that is always there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unmix.corpus.unfit import relative


def modules(root: Path) -> list[Path]:
    """Its modules, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        if folder == str(root):
            folders[:] = [name for name in folders if not _foreign(f"{name}/")]  # what is installed can be huge
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return [path for path in sorted(found) if not _foreign(relative(path, root))]


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """(`json/decoder.py`, its text); modules without any text, and the few that are not UTF-8, are left out."""
    for path in modules(root):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield relative(path, root), text


def _foreign(key: str) -> bool:
    """Other people's code; build paths of one machine."""
    return key.startswith(("site-packages/", "_sysconfigdata", "config-")) or "/_sysconfigdata" in key
