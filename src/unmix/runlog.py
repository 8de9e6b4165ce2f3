"""What a run leaves on disk besides weights: the manifest, and a line of metrics per member and logged step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from unmix.errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk, rename into place: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    data = content.encode() if isinstance(content, str) else content
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_json(path: Path, value: Any) -> None:
    """JSON with an indent, written whole."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """`run.yaml`: the resolved recipe with what it ran on."""
    write_whole(path, yaml.safe_dump(manifest, sort_keys=False, width=110, allow_unicode=True))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest as plain data. Raises `UserError` if it is damaged."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("recipe"), dict):
        raise UserError(f"{path} is damaged: it holds no recipe")
    return loaded


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def keep_metrics(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite the file with the rows to keep: a resumed run writes the others again."""
    if path.exists():
        kept = [row for row in read_metrics(path) if keep(row)]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def append_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows; each is one write, so that a crash cuts at most the last line."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
