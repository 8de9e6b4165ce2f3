"""`explore/manifest.json`: what the store was made from, and what of it is finished.

`inputs` are what every value depends on: the model, the documents, the checkpoints, the mask, the sequences. A store is
read and resumed only under the inputs that it was begun with: two kinds of values are never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unmix.disk import sha256
from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.runlog import read_json, write_json

FILE = "manifest.json"
FORMAT = 1
Manifest = dict[str, Any]


def fingerprint(inputs: dict[str, Any]) -> str:
    """16 hex digits of SHA-256 over the inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a store, or none. Raises `UserError` if it is damaged, or of another program or version."""
    found = read_json(folder / FILE)
    if found is not None and (found.get("format") != FORMAT or not isinstance(found.get("inputs"), dict)):
        raise UserError(f"{folder / FILE} is no explorer store of this version; move it away, or give another --out")
    return found


def begin(folder: Path, inputs: dict[str, Any], about: dict[str, Any]) -> Manifest:
    """The manifest of a store of these inputs, with no shard yet."""
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(inputs),
        "inputs": inputs,
        "about": about,
        "measured": {},
        "shards": [],
        "derived": {},
        "site": [],
    }
    write_json(folder / FILE, manifest)
    return manifest


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old value, new value) where two trees of inputs differ; keys are dotted."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def require_same(folder: Path, manifest: Manifest, inputs: dict[str, Any]) -> None:
    """Raises `UserError`, which says what changed, unless the store was made from these inputs."""
    changed = list(differences(manifest["inputs"], inputs))
    if not changed:
        return
    remedy = "give --anew to build it again, or --out for another folder"
    others = [row for row in changed if not row[0].startswith("members.")]
    if others:
        key, old, new = others[0]
        raise UserError(f"{folder} was built with {_said(key, old)}, which is now {_value(new)}; {remedy}")
    was, now = manifest["inputs"]["members"], inputs["members"]
    if more := sorted(now.keys() - was.keys()):
        raise UserError(f"{folder} was built without {', '.join(more)}; {remedy}")
    if gone := sorted(was.keys() - now.keys()):
        raise UserError(f"{folder} was built with {', '.join(gone)}, not among the members now; {remedy}")
    said = [
        f"{name} ({was[name].get('checkpoint')}, is now {now[name].get('checkpoint')})"
        if was[name].get("checkpoint") != now[name].get("checkpoint")
        else f"{name} (other {', '.join(key for key in now[name] if now[name][key] != was[name].get(key))})"
        for name in sorted(now)
        if now[name] != was[name]
    ]
    raise UserError(f"{folder} was built from other checkpoints of {', '.join(said)}; {remedy}")


def require_asked(
    folder: Path,
    manifest: Manifest,
    tokens: int | None,
    members: Sequence[str],
    *,
    corpus: str | None = None,
    corpus_keys: Mapping[str, Any] = MappingProxyType({}),
    hook: str | None = None,
    hook_out: str | None = None,
) -> None:
    """Raises `UserError` if the site was built with another number of tokens, of other members, on another corpus or at
    other hooks, where they are given: serving it would not change it."""
    inputs, about = manifest["inputs"], manifest["about"]
    rows: list[tuple[str, Any, Any]] = [
        ("asked_tokens", tokens, inputs.get("asked_tokens")),
        ("asked_members", sorted(members) or None, inputs.get("asked_members")),
        ("corpus_keys", dict(corpus_keys) or None, about.get("corpus_keys", {})),
    ]
    if corpus is not None and Path(corpus).absolute() != Path(about["corpus"]).absolute():  # any source, or one path
        rows.append(("source", corpus, about["corpus"]))
    for key, at in (("hook", hook), ("hook_out", hook_out)):
        hooks = sorted({row[key] for row in inputs["members"].values() if key in row})
        if at is not None and hooks and canonical(at) not in hooks:
            rows.append((key, at, hooks))
    for key, value, there in rows:
        if value not in (None, there):
            raise UserError(
                f"the site in {folder} was built with {_said(key, there)}, and {_said(key, value)} is asked for; "
                "give --anew to build it again, --out for another folder, or leave that out to see it as it is"
            )


_FLAGS = {
    "asked_tokens": "--tokens",
    "asked_members": "--member",
    "source": "--corpus",
    "hook": "--hook",
    "hook_out": "--hook-out",
}


def _said(key: str, value: Any) -> str:
    """An input as its user knows it."""
    if key == "corpus_keys":
        return " ".join(f"--corpus.{name} {_value(given)}" for name, given in value.items()) or "no keys of the corpus"
    return f"{_FLAGS[key]} {_value(value)}" if key in _FLAGS else f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "all" if value is None else str(value)


def whole(folder: Path, files: dict[str, str]) -> bool:
    """Whether these files (path below the folder -> SHA-256) are there as they were written."""
    with suppress(OSError):
        return all(sha256(folder / path) == digest for path, digest in files.items())
    return False


def clear(folder: Path, manifest: Manifest) -> None:
    """Remove what the manifest lists, and nothing else; folders that are left empty go with it.

    Raises `UserError`, before anything is removed, if it lists a path that leads out of the folder.
    """
    listed = [path for shard in manifest["shards"] for path in shard["files"]]
    listed += [path for row in manifest["derived"].values() for path in row["files"]]
    listed += [f"site/{path}" for path in manifest["site"]]
    if outside := next((path for path in listed if Path(path).anchor or ".." in Path(path).parts), None):
        raise UserError(f"{folder / FILE} lists {outside}, which no build wrote; move the folder away")
    parents = set()
    for path in listed:
        (folder / path).unlink(missing_ok=True)
        parents |= {parent for parent in (folder / path).parents if folder in parent.parents}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            parent.rmdir()
    (folder / FILE).unlink(missing_ok=True)  # last: it names what is still to be removed
