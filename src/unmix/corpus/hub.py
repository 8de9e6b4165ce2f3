"""Datasets by name, `datasets:NAME[:CONFIG[:SPLIT]]`, streamed; and which revision of one the hub has today."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from unmix.cache import cache_folder, written_whole
from unmix.corpus.content import Content
from unmix.corpus.records import content_of
from unmix.disk import at_home
from unmix.errors import UserError

PREFIX = "datasets:"
_SECONDS_TO_ANSWER = 20
_CONFIGS = re.compile(r"pick one among the available configs: \[(.*)\]")  # what datasets says, 2.14 to 5.2
_WHOLE = re.compile(r"[0-9a-f]{40}")


class Named(NamedTuple):
    """The parts of a source; empty where not given."""

    name: str
    config: str
    split: str

    @property
    def folder(self) -> Path | None:
        """What is on this disk under that name, and then comes before the hub."""
        path = at_home(Path(self.name))
        return path if path.exists() else None


class Revision(NamedTuple):
    """Which state of a dataset on the hub is read."""

    commit: str | None
    """None: not known."""
    doubt: str
    """Why the hub could not say so now; empty if it did."""


def named(source: str) -> Named:
    """The parts of `datasets:NAME[:CONFIG[:SPLIT]]`. Raises `UserError` if there is no name."""
    name, _, rest = source.removeprefix(PREFIX).partition(":")
    config, _, split = rest.partition(":")
    if not name:
        raise UserError(f"corpus.source = {source} names no dataset; write datasets:NAME[:CONFIG[:SPLIT]]")
    return Named(name, config, split)


def streamed(source: str, field: str, commit: str | None) -> Iterator[Content]:
    """`field` of every record, no more of them fetched than are asked for. Raises `UserError` if that fails."""
    name, config, split = part = named(source)
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(f"corpus.source = {source} needs the datasets library: pip install datasets") from None
    more = {} if commit is None else {"revision": commit}
    name = name if part.folder is None else str(part.folder)
    try:
        records = load_dataset(name, config or None, split=split or "train", streaming=True, **more)
        for number, record in enumerate(records, 1):
            yield content_of(record, field, f"{source}, record {number}")
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds: hub, network, script, split
        configs = _CONFIGS.search(str(error))
        why = f"it has several configurations; write datasets:{name}:CONFIG for one of: {configs[1]}" if configs else ""
        raise UserError(f"cannot read corpus.source = {source}: {why or _line(error)}") from None


def revision(name: str, asked: str | None = None) -> Revision:
    """The commit that a dataset has at `asked` (a commit, branch or tag), or at its newest.

    If the hub cannot be asked, the last that it is known to have had there; a whole commit is its own.
    """
    if asked is not None and _WHOLE.fullmatch(asked):
        return Revision(asked, "")
    key = name if asked is None else f"{name}@{asked}"
    path = cache_folder() / "revisions" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        commit = ask_hub(name, asked)
    except Exception as error:  # no network, no such dataset, no permission; reading says the last two in its own words
        doubt = f"the hub cannot be asked for the revision of {key} ({_line(error)})"
        with suppress(OSError, ValueError, KeyError, TypeError):
            return Revision(str(json.loads(path.read_text(encoding="utf-8"))["revision"]), doubt)
        return Revision(asked, doubt)
    known = json.dumps({"dataset": key, "revision": commit}) + "\n"
    with suppress(OSError, ValueError):
        if path.read_text(encoding="utf-8") == known:
            return Revision(commit, "")
    try:
        with written_whole(path) as unfinished:
            unfinished.write_text(known, encoding="utf-8")
    except UserError as error:  # tokens that are cached can be read all the same
        return Revision(commit, f"the revision of {key} is not remembered ({error})")
    return Revision(commit, "")


def ask_hub(name: str, asked: str | None = None) -> str:
    """The commit of a dataset at a revision, or its newest. Raises whatever the hub's client does."""
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name, revision=asked, timeout=_SECONDS_TO_ANSWER).sha)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
