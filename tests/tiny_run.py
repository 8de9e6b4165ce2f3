"""A small real run: a freshly initialised model on disk, texts on disk, a recipe that trains in a second."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

from unmix import config
from unmix.config import RunConfig

WORDS = sorted(keyword.kwlist)


def write_texts(folder: Path, documents: int = 60) -> Path:
    """A folder of texts that differ."""
    folder.mkdir()
    for n in range(documents):
        words = [WORDS[(n * 7 + i * i) % len(WORDS)] for i in range(120)]
        (folder / f"{n:03d}.txt").write_text(f"document {n}\n" + " ".join(words))
    return folder


def make(overrides: dict[str, Any], **more: Any) -> RunConfig:
    """The recipe with further changes; `training__steps=30` stands for `training.steps`."""
    return config.load(None, overrides | {key.replace("__", "."): value for key, value in more.items()})
