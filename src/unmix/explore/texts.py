"""The text of a site, once for all its members: ids of every token, in pages of PAGE tokens.

text/00000.js   PAGE ids, planes of 3 bytes; the last page has what is left

Examples say where they stand (`s` the sequence, `p` the position, `n` tokens); their ids are read here, so that a text
that is an example of fifty features is written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unmix.explore.pack import of_planes, planes, read_bytes
from unmix.explore.store import Ints

PAGE = 2**18
WIDTH = 3  # bytes an id
Record = dict[str, Any]


def text_pages(id_R: Ints) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of each page."""
    for number, first in enumerate(range(0, len(id_R), PAGE)):
        yield f"text/{number:05d}", planes(id_R[first : first + PAGE], WIDTH)


class SiteText:
    """What the examples of a site say. Raises OSError or ValueError where the files are missing or damaged."""

    def __init__(self, site: Path, T: int) -> None:
        self.site, self.T = site, T

    @cached_property
    def id_R(self) -> Ints:
        pages = sorted((self.site / "text").glob("*.js"))
        if not pages:
            raise FileNotFoundError(f"{self.site / 'text'} has no pages of text")
        parts = [read_bytes(page.read_bytes()) for page in pages]
        return np.concatenate([of_planes(part, 0, len(part) // WIDTH, WIDTH) for part in parts]).astype(np.int64)

    def fill(self, record: Record) -> Record:
        """The record of a feature, with `ids` in each of its windows."""
        for window in windows_of(record["groups"]):
            if "ids" not in window:
                first = window["s"] * self.T + window["p"]
                window["ids"] = self.id_R[first : first + window["n"]].tolist()
                if len(window["ids"]) != window["n"]:
                    raise ValueError(f"the text ends before the example at {window['s']}, {window['p']}")
        return record


def windows_of(groups: dict[str, Any]) -> Iterator[Record]:
    """Every window of a feature's groups, of bands too."""
    for group in groups.values():
        for entry in group:
            yield from entry.get("windows", (entry,))
