"""A run folder: start a sweep in it, and resume one.

runs/NAME/run.yaml            the resolved recipe and what it ran on
runs/NAME/norms.json          how long the hooks' activations are, and which tokens are the longest
runs/NAME/metrics.jsonl       a line per member and logged step
runs/NAME/members/MEMBER/     checkpoints of the sweep;  MEMBER-extended/: of the extension
runs/NAME/choice.json         which member, by which rule;  extension.json: how far it was trained on
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmix import config as recipes
from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import RunConfig
from unmix.disk import require_room, size
from unmix.errors import UserError
from unmix.kernels.dispatch import Scratch
from unmix.machine import resident
from unmix.precision import decide, said
from unmix.runlog import (
    append_metrics,
    flush_metrics,
    gaps,
    keep_metrics,
    logged_steps,
    read_metrics,
    write_json,
    write_manifest,
)
from unmix.sinks import open_sinks
from unmix.training import checkpoint, memory
from unmix.training.inputs import Inputs, Say, open_inputs, store_recipe, with_matmul
from unmix.training.lock import locked
from unmix.training.loop import Row, train
from unmix.training.manifest import (
    agreed,
    check_inputs,
    entries,
    first_norms,
    new_manifest,
    said_of_outliers,
    sweep_schedule,
)
from unmix.training.measure import Facts
from unmix.training.member import Entry, Member, new_member
from unmix.training.schedule import Schedule


@dataclass(frozen=True)
class Watch:
    """How a run talks to whoever watches it, and how it is asked to stop."""

    say: Say = lambda text: None
    rows: Callable[[list[Row], int], None] = lambda rows, steps: None
    """Called with every line of metrics and the step that training goes to."""
    stop: Callable[[], bool] = lambda: False


SILENT = Watch()


def sweep(recipe: RunConfig, folder: Path, watch: Watch = SILENT, *, force: bool = False) -> None:
    """Train every member to the end; goes on where the run folder stops. Raises `Stopped` if asked to stop.

    Raises `UserError` if the disk has no room for its checkpoints, unless `force`.
    """
    recipe, manifest = agreed(recipe, folder)
    schedule, whole = sweep_schedule(recipe), entries(recipe)
    folders = {entry.name: folder / "members" / entry.name for entry in whole}
    if checkpoint.is_whole(list(folders.values()), schedule.steps):
        watch.say(f"{folder} has its {schedule.steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say)
    held = resident()  # before the trials, whose memory is freed and used again
    recipe, measured = settle(recipe, inputs, watch.say)
    if not force:
        require_room(folder, room(recipe, inputs, schedule, folders), f"the checkpoints of {len(whole)} members")
    rows = recipe.activations.chunk_sequences * inputs.context
    peak = held + memory.chunk(inputs.source, rows) + memory.members(recipe, inputs.source, whole)
    watch.say(f"about {size(peak)} of memory at the peak")
    with locked(folder):
        first = _first_step(folders, watch.say) if manifest is not None else 0
        if manifest is None:
            manifest = new_manifest(recipe, inputs, measured)
            write_manifest(folder / "run.yaml", manifest)
        check_inputs(manifest, inputs, folder)
        for line in said_of_outliers(manifest):
            watch.say(line)
        if not (folder / "norms.json").exists():
            write_json(folder / "norms.json", first_norms(inputs))
        head = None if first else inputs.source.head()
        scratch = Scratch()
        members = [start_member(recipe, manifest, inputs, entry, folder, head, scratch) for entry in whole]
        if first:
            watch.say(f"resuming at step {first:,}")
            for member in members:
                checkpoint.load(member, checkpoint.step_folder(folders[member.entry.name], first))
        train_members(recipe, members, inputs, schedule, 0, first, folder / "metrics.jsonl", "sweep", folders, watch)


def settle(recipe: RunConfig, inputs: Inputs, say: Say) -> tuple[RunConfig, dict[str, Any]]:
    """(the recipe with nothing left to `auto`, what was measured for that)."""
    if recipe.activations.store is None:
        recipe = with_matmul(recipe, inputs.model["matmul"])
    recipe, measured = decide(recipe, inputs.source.widths)
    if measured:
        say(said(recipe, measured))
    return recipe, measured


def _first_step(folders: dict[str, Path], say: Say) -> int:
    """Where a run goes on: the newest step of which every member has a whole checkpoint."""
    for member in folders.values():
        checkpoint.tidy(member)
    first = checkpoint.newest_whole(list(folders.values()), say)
    ahead = {name: s for name, f in folders.items() if (s := max(checkpoint.steps_on_disk(f), default=0)) > first}
    if ahead:
        say(f"step {max(ahead.values()):,} is there of {', '.join(ahead)} alone, not of every member")
    if not first:
        say("no whole checkpoint: beginning at step 0")
    return first


def train_members(
    recipe: RunConfig,
    members: list[Member],
    inputs: Inputs,
    schedule: Schedule,
    began: int,
    first: int,
    metrics: Path,
    phase: str,
    folders: dict[str, Path],
    watch: Watch,
) -> None:
    """Train from `first` on; the phase `began` at an earlier step if it goes on. Rows behind `first` are made again."""
    t = recipe.training
    keep_metrics(metrics, lambda row: row["step"] <= first or row["phase"] != phase)
    rows_before = [row for row in read_metrics(metrics) if row["phase"] == phase]
    spent = [row["seconds"] for row in rows_before]
    for lost in gaps(rows_before, list(folders), logged_steps(began, first, t.log_every, schedule.steps)):
        watch.say(f"warning: {metrics}: {lost}")
    facts = {
        "model": inputs.model["name"],
        "context": inputs.context,
        "metadata": {
            "dataset_path": inputs.corpus["source"],
            "run": recipe.name,
            "phase": phase,
            "unmix_recipe": store_recipe(recipe),
        },
    }

    def log(rows: list[Row]) -> None:
        append_metrics(metrics, [row | {"phase": phase} for row in rows])
        for write, _ in sinks:
            write(rows)
        watch.rows(rows, schedule.steps)

    def save(step: int) -> None:
        flush_metrics(metrics)
        for member in members:
            checkpoint.save(member, folders[member.entry.name], step, facts)
        for kept in folders.values():  # not before every member has the new one
            checkpoint.retain(kept, step, last=t.keep_last, every=t.keep_every, always=schedule.stable_until)

    sinks = open_sinks(list(recipe.sinks), metrics.parent, recipes.dump(recipe))
    try:
        train(
            members,
            inputs.source,
            schedule,
            first=first,
            log_every=t.log_every,
            checkpoint_every=t.checkpoint_every,
            dead_after_tokens=t.dead_after_tokens,
            log=log,
            save=save,
            say=watch.say,
            stop=watch.stop,
            seconds=max(spent, default=0.0),
        )
    finally:
        for _, close in sinks:
            close()


def room(recipe: RunConfig, inputs: Inputs, schedule: Schedule, folders: dict[str, Path]) -> int:
    """Bytes that the checkpoints of these members come to at most, without those that are there."""
    t = recipe.training
    kept = t.keep_last + 2 + (schedule.steps // t.keep_every if t.keep_every else 0)  # one before the decay, one new
    made = schedule.steps // t.checkpoint_every + 2
    needed = 0
    for entry in entries(recipe):
        if entry.name in folders:
            features = recipe.of_variant(entry.variant)[0].features
            needed += min(kept, made) * checkpoint.room(inputs.source.widths[entry.hook], features)
    there = sum(f.stat().st_size for folder in folders.values() for f in folder.rglob("*") if f.is_file())
    return max(0, needed - there)


def start_member(
    recipe: RunConfig,
    manifest: dict[str, Any],
    inputs: Inputs,
    entry: Entry,
    folder: Path,
    head: Batch | None,
    scratch: Scratch,
) -> Member:
    """The member at its start; without `head`, it waits for a checkpoint to be loaded."""
    known = manifest.get("members", {}).get(entry.name)
    if known is None:
        raise UserError(f"{folder / 'run.yaml'} was written by another version of unmix and cannot be resumed")
    facts = Facts(**{key: known[key] for key in Facts._fields})
    config, training = recipe.of_variant(entry.variant)
    outliers = manifest["hooks"].get(entry.hook, {}).get("outliers")
    mask = Mask(training.mask, inputs.special_ids, facts.median_norm, outliers)
    width = inputs.source.widths[entry.hook]
    return new_member(
        entry, width, config=config, training=training, facts=facts, mask=mask, head=head, scratch=scratch
    )
