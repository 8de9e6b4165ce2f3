"""Where a dictionary lies that a command was given by path, by its id on the hub, or as a release of SAELens."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from unmix.cli.progress import Progress


class Place(NamedTuple):
    """The folder (or file) itself, and where what is made of it is kept: the same, but for one in the hub's cache."""

    folder: Path
    kept: Path


def place_of(name: Path, *, pickles: bool = False) -> Place:
    """Downloads it if need be. Raises `UserError` as `interop.hub.folder_of`."""
    from unmix.interop.hub import folder_of, kept_of

    return Place(folder_of(name, pickles=pickles, say=Progress.say), kept_of(name))
