"""The memory a sweep needs at its peak, told before it begins, from the recipe and the widths alone.

    what the process has with the model loaded
    + the chunk of activations that is being trained on       rows x (4 bytes a number, 16 for id and position)
    + each member: weights, gradients, two moments            16 bytes a weight; the tiles of its training step
    + one checkpoint on its way to the disk                   its bytes, gathered before they are written

Nothing in it grows with the corpus or with the number of steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from unmix.activations.stream import Source
from unmix.config import RunConfig
from unmix.kernels.dense import TILE_BYTES
from unmix.training.member import Entry


def resident() -> int:
    """Bytes of memory this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def chunk(source: Source, rows: int) -> int:
    """Bytes of a chunk of all hooks."""
    return rows * (4 * sum(source.widths.values()) + 16)


def members(recipe: RunConfig, source: Source, entries: Sequence[Entry]) -> int:
    """Bytes of all members in training, and of one checkpoint being written."""
    weights = {e.name: _weights(recipe, source, e) for e in entries}
    tiles = {e.name: max(TILE_BYTES, 256 * recipe.of_variant(e.variant)[0].features) for e in entries}
    return sum(16 * weights[e.name] + 2 * tiles[e.name] for e in entries) + 16 * max(weights.values())


def _weights(recipe: RunConfig, source: Source, entry: Entry) -> int:
    D, F = source.widths[entry.hook], recipe.of_variant(entry.variant)[0].features
    return 2 * D * F + F + D
