"""The names by which SAELens knows published dictionaries, from the table that it installs.

The table, `sae_lens/pretrained_saes.yaml` (sae-lens 6.54.12), has for each release a repository of the hub, keys that
override what the files say, and for each SAE an id and a path in the repository. It is read as text beside the package,
which is not imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from unmix.errors import UserError

TABLE = "pretrained_saes.yaml"
_SAID = ("model_name", "hook_name", "model_from_pretrained_kwargs")  # of the training: no part of the function
_HARMLESS = ("dataset_path",)


def find(release: str, sae: str, say: Callable[[str], None]) -> tuple[str, str] | None:
    """(repository, path in it) of an SAE by its id; None: no such release, or no table.

    Raises `UserError` if the release has no SAE of that id, or if the table changes what its files compute.
    """
    text = _table()
    entry = _entry(text, release) if text else None
    if entry is None:
        return None
    paths = {str(row["id"]): str(row["path"]) for row in entry["saes"]}
    if sae not in paths:
        near = difflib.get_close_matches(sae, paths, n=5, cutoff=0.0)
        raise UserError(
            f"{release} of SAELens' table has no SAE {sae or 'without an id'}; it has {len(paths):,}, such as "
            f"{', '.join(near or list(paths)[:5])}: give one of them"
        )
    for key, value in (entry.get("config_overrides") or {}).items():
        if key in _SAID:
            say(f"SAELens' table says of {release}: {key} = {value}")
        elif key not in _HARMLESS:
            raise UserError(
                f"SAELens opens {release} with {key} = {value} from its table, which changes what the files compute; "
                "this version takes no such key from there: open it with SAELens and save it"
            )
    return str(entry["repo_id"]), paths[sae]


def said_of(repo: str, path: str) -> dict[str, Any]:
    """What the table says of the training of an SAE by its place on the hub: `model_name`, `hook_name`,
    `model_from_pretrained_kwargs`. Empty where it says nothing, and without a table.
    """
    text = _table() or ""
    heads = [*_NAMES.finditer(text)]
    for n, head in enumerate(heads):
        block = text[head.start() : heads[n + 1].start() if n + 1 < len(heads) else None]
        if "\n  config_overrides:" in block and re.search(rf"^  repo_id: {re.escape(repo)}\s*$", block, re.M):
            entry = yaml.safe_load(block)[head[1]]
            if any(str(row["path"]) == path for row in entry["saes"]):
                return {key: value for key, value in entry["config_overrides"].items() if key in _SAID}
    return {}


def perhaps() -> str:
    """What to add to a line about words that may be a release's, where no table says; empty where one does."""
    return "" if _table() else "; if it is a release of SAELens, `pip install sae-lens` brings the table that knows it"


def unknown(release: str) -> UserError:
    """The error for a word without a slash that is no folder, and no release as far as is known."""
    if (text := _table()) is None:
        return UserError(
            f"there is no folder {release}; if it is a release of SAELens, `pip install sae-lens` brings the table "
            "that knows its repository, else give OWNER/REPO"
        )
    near = difflib.get_close_matches(release, _NAMES.findall(text), n=3, cutoff=0.0)
    return UserError(f"there is neither a folder nor a release of SAELens called {release}; near are {', '.join(near)}")


_NAMES = re.compile(r"^([\w.-]+):\s*$", re.M)


@cache
def _table() -> str | None:
    """The text of the table; None where SAELens is not installed."""
    try:
        spec = find_spec("sae_lens")  # of a package without a parent: finds, and imports nothing
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / TABLE).is_file():
            return path.read_text(encoding="utf-8")
    return None


def _entry(text: str, release: str) -> dict[str, Any] | None:
    """One release, without reading the 13,000 SAEs of the others."""
    found = re.search(rf"^{re.escape(release)}:[^\n]*\n(?:(?:[ \t-][^\n]*)?\n)*", text, re.M)
    if found is None:
        return None
    loaded = yaml.safe_load(found[0])[release]
    return loaded if isinstance(loaded, dict) else None
