"""The room that the checkpoints of a run take on the disk."""

from __future__ import annotations

from pathlib import Path

from unmix.config import RunConfig
from unmix.training import checkpoint
from unmix.training.inputs import Inputs
from unmix.training.manifest import entries
from unmix.training.schedule import Schedule


def room(recipe: RunConfig, inputs: Inputs, schedule: Schedule, folders: dict[str, Path]) -> int:
    """Bytes that the checkpoints of these members come to at most, without those that are there."""
    t = recipe.training
    kept = t.keep_last + 2 + (schedule.steps // t.keep_every if t.keep_every else 0)  # one before the decay, one new
    ends = {schedule.stable_until, schedule.steps}
    made = len(ends | {*range(t.checkpoint_every, schedule.steps, t.checkpoint_every)} - {0})
    needed = 0
    for entry in entries(recipe):
        if entry.name in folders:
            features = recipe.of_variant(entry.variant)[0].features
            widths, target_widths = inputs.source.widths, inputs.source.target_widths
            each = checkpoint.room(widths[entry.hook], features, target_widths.get(entry.hook))
            needed += min(kept, made) * each
    there = sum(f.stat().st_size for folder in folders.values() for f in folder.rglob("*") if f.is_file())
    return max(0, needed - there)
