"""Descriptions of features by a language model, as the site shows them.

MEMBER/descriptions.js   feature -> text, model, detection, fuzzing: the last line of `descriptions/MEMBER.jsonl` that
                         is of this site; only where there is one

`unmix explore --explain` writes the lines; here they are read, and put into a site that stands already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.disk import replacing
from unmix.explore.describe import read_lines
from unmix.explore.manifest import FILE
from unmix.explore.manifest import read_manifest as read_store
from unmix.explore.pack import script
from unmix.explore.server_files import read_manifest, read_object
from unmix.runlog import write_json

Descriptions = dict[str, dict[str, Any]]
SCORES = ("detection", "fuzzing")


def key(member: str) -> str:
    """Of its script."""
    return f"{member}/descriptions"


def of_member(out: Path, member: str, site: str) -> Descriptions:
    """Feature -> what is said of it. Raises `UserError` for a line that is damaged."""
    found = {}
    for line in read_lines(out / "descriptions" / f"{member}.jsonl"):
        if line.get("member") == member and line.get("site") == site and isinstance(line.get("text"), str):
            scores = {kind: _score(line.get(kind)) for kind in SCORES}
            found[str(line["i"])] = {"text": line["text"], "model": str(line.get("model", "")), **scores}
    return found


def _score(found: Any) -> dict[str, float] | None:
    names = ("accuracy", "se", "n")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), (int, float)) for name in names):
        return None
    return {name: found[name] for name in names}


def show(out: Path, member: str) -> int:
    """Put a member's descriptions into the site in `out`; answers how many there are."""
    site, name = out / "site", key(member)
    manifest = read_manifest(site)
    found = of_member(out, member, manifest["fingerprint"])
    if not found:
        return 0
    if (there := read_store(out)) is not None and f"{name}.js" not in there["site"]:
        there["site"] = sorted([*there["site"], f"{name}.js"])
        write_json(out / FILE, there)
    with replacing(site / f"{name}.js") as new:
        new.write_bytes(script(name, found))
    for row in manifest["members"]:
        if row["name"] == member:
            row["described"] = len(found)
    with replacing(site / "manifest.js") as new:
        new.write_bytes(script("manifest", manifest, packed=False))
    return len(found)


def read(site: Path, row: dict[str, Any]) -> Descriptions:
    """Those of a member, a row of the site's manifest."""
    found: Descriptions = read_object(site, key(str(row["name"]))) if row.get("described") else {}
    return found
