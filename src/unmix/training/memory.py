"""The memory a sweep needs at its peak, told before it begins, from the recipe and the widths alone.

    what the process has with the model loaded
    + the chunk of activations that is being trained on       rows x (4 bytes a number, 16 for id and position)
    + each member: weights, gradients, two moments            16 bytes a weight
    + a training step, which the members take in turn         its tiles, W_enc rounded, and what is active
    + one checkpoint on its way to the disk                   its bytes, gathered before they are written

Nothing in it grows with the corpus or with the number of steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from unmix.activations.stream import Source
from unmix.config import RunConfig
from unmix.kernels import cpu, dense
from unmix.kernels.dispatch import SPARSE_BELOW
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
    """Bytes of all members in training, of a step, and of one checkpoint being written."""
    weights = [_weights(recipe, source, entry) for entry in entries]
    return 16 * sum(weights) + max(_step(recipe, source, entry) for entry in entries) + 16 * max(weights)


def _step(recipe: RunConfig, source: Source, entry: Entry) -> int:
    """Bytes of the arrays of a step: the dense one's, or the sparse one's when it begins, whichever are more."""
    D, F = source.widths[entry.hook], recipe.of_variant(entry.variant)[0].features
    entries = int(SPARSE_BELOW * recipe.training.batch_tokens * F)
    sparse = 3 * cpu.TILE_BYTES + 2 * D * F + 40 * entries
    return max(2 * max(dense.TILE_BYTES, 256 * F), sparse)


def _weights(recipe: RunConfig, source: Source, entry: Entry) -> int:
    D, F = source.widths[entry.hook], recipe.of_variant(entry.variant)[0].features
    return 2 * D * F + F + D
