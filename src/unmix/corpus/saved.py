"""Folders that `save_to_disk` of the `datasets` library wrote: one dataset, or one for each split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unmix.config.corpus import SourceConfig
from unmix.corpus.content import Content
from unmix.corpus.files import read
from unmix.corpus.text_files import whole
from unmix.errors import UserError

_SPLITS, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved(folder: Path) -> bool:
    """Whether the folder is one that `save_to_disk` wrote."""
    return (folder / _SPLITS).is_file() or ((folder / _STATE).is_file() and (folder / _INFO).is_file())


def saved(folder: Path, config: SourceConfig, split: str, say: Callable[[str], None]) -> Iterator[Content]:
    """`config.field` of every row, of one split where there are several (`train` if none is asked for).

    Raises `UserError`: no such split, a description or shard that is damaged or not there, nothing to read in the
    field.
    """
    if (folder / _SPLITS).is_file():
        splits = list(_described(folder / _SPLITS, "splits"))
        chosen = split or "train"
        remedy = f"write datasets:{folder}::SPLIT for one of: {', '.join(splits)}"
        if chosen not in splits:
            raise UserError(f"{folder} has no split {chosen!r}; {remedy}")
        if len(splits) > 1 and not split:
            say(f"{folder} has several splits, and train is read; for another {remedy}")
        folder = folder / chosen
    elif split and split != _described(folder / _STATE, "_split"):
        raise UserError(f"{folder} is one dataset without splits, so {split!r} is not there; write {folder} alone")
    if _described(folder / _STATE, "_indices_data_files", []):
        raise UserError(f"{folder} was saved with an index by an old datasets library; load and save it with a new one")
    for shard in _described(folder / _STATE, "_data_files"):
        path = folder / Path(shard["filename"]).name
        if not path.is_file():
            raise UserError(f"{path} is not there, although {folder / _STATE} names it; copy or save the dataset again")
        yield from read(path, config, whole)


def _described(path: Path, key: str, default: Any = None) -> Any:
    """One entry of a description. Raises `UserError` if it cannot be read, or the entry is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(key, default)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read ({why}); copy or save the dataset again") from None
