"""The files of the built site, and nothing else below or beside its folder."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from unmix.errors import UserError
from unmix.explore.pack import read_script, script

INDEX, MANIFEST = "index.html", "manifest.js"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
_NO_NAME = re.compile(r'[\\/:\0-\x1f\x7f"<>|?*]')
"""What stands in no name of a site's file: drives and streams of Windows, patterns, control characters."""


class File(NamedTuple):
    """What is sent."""

    content: bytes
    media_type: str


def read_file(site: Path, asked: str) -> File | None:
    """The file that a path of a request means (without its first slash, decoded), or none.

    Only plain names of the site's own kinds of files are looked up. A link is followed if it ends within the folder.
    """
    parts = (asked or INDEX).split("/")
    if any(not part or part.startswith(".") or _NO_NAME.search(part) for part in parts):
        return None
    media_type = _TYPES.get(Path(parts[-1]).suffix)
    if media_type is None:
        return None
    try:
        path, root = site.joinpath(*parts).resolve(strict=True), site.resolve(strict=True)
        if not path.is_relative_to(root) or path.suffix not in _TYPES or not path.is_file():
            return None
        content = path.read_bytes()
    except (OSError, RuntimeError):  # not there, not to be read, a name too long, links in a circle
        return None
    if parts == [MANIFEST]:
        content = _as_served(path, content)
    return File(content, media_type)


def read_manifest(site: Path) -> dict[str, Any]:
    """The site's manifest. Raises `UserError` if there is no site in the folder, or it is damaged."""
    if not (site / MANIFEST).is_file():
        raise UserError(f"{site} holds no site ({MANIFEST}); build it with `unmix explore RUN --build`")
    return read_object(site, "manifest")


def read_object(site: Path, key: str) -> dict[str, Any]:
    """What the script `KEY.js` of a site gives to the page. Raises `UserError` if it is absent or gives no object."""
    found: dict[str, Any] = _parsed(*_script(site, key))
    return found


def read_page(site: Path, key: str) -> list[dict[str, Any]]:
    """The same of one that gives a list of objects."""
    found: list[dict[str, Any]] = _parsed(*_script(site, key), list)
    return found


def _script(site: Path, key: str) -> tuple[Path, bytes]:
    path = site / f"{key}.js"
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); build the site again with `unmix explore RUN --build`"
        ) from None


def _as_served(path: Path, content: bytes) -> bytes:
    """The manifest with `server: true`: the page then offers what only a server can do."""
    return script("manifest", _parsed(path, content) | {"server": True}, packed=False)


def _parsed(path: Path, content: bytes, kind: type = dict) -> Any:
    try:
        found = read_script(content)
    except (ValueError, zlib.error):
        found = None
    if not isinstance(found, kind):
        raise UserError(f"{path} is damaged; build the site again with `unmix explore RUN --build`")
    return found
