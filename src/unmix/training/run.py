"""A run folder: start a sweep in it, and resume one.

runs/NAME/run.yaml            the resolved recipe and what it ran on
runs/NAME/norms.json          the norms of the hooks' activations, and the tokens with the largest
runs/NAME/metrics.jsonl       a line per member and logged step
runs/NAME/members/MEMBER/     checkpoints of the sweep;  MEMBER-extended/: of the extension
runs/NAME/choice.json         which member, by which rule;  extension.json: how far it was trained on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unmix import config as recipes
from unmix.activations.iterated import Iterated
from unmix.activations.mask import Mask
from unmix.activations.rows import Rows, open_rows
from unmix.activations.stream import Batch, Source
from unmix.config import GIVEN, RunConfig
from unmix.devices import free
from unmix.disk import require_room, size
from unmix.errors import LESS_MEMORY, UserError
from unmix.kernels.dispatch import Dense, Scratch
from unmix.machine import resident
from unmix.neighbours import Neighbours
from unmix.precision import decide, reopened, said
from unmix.runlog import (
    Logged,
    append_metrics,
    flush_metrics,
    keep_metrics,
    logged_steps,
    order_metrics,
    read_metrics,
    write_json,
    write_manifest,
)
from unmix.sinks import open_sinks
from unmix.training import checkpoint, memory
from unmix.training.able import compiling, require
from unmix.training.inputs import Inputs, Say, activations_read, as_new, open_inputs, pinned, store_recipe, with_matmul
from unmix.training.lines import name_gaps, without_line
from unmix.training.lock import locked
from unmix.training.loop import Row, train
from unmix.training.manifest import (
    agreed,
    check_inputs,
    check_rows,
    check_schedule,
    ends,
    entries,
    first_norms,
    logged_in,
    moved,
    new_manifest,
    of_member,
    renewed,
    said_of_outliers,
    sweep_schedule,
)
from unmix.training.measure import Facts
from unmix.training.member import Entry, Member, new_member
from unmix.training.missed import said_of_missed
from unmix.training.room import room
from unmix.training.schedule import Schedule


@dataclass(frozen=True)
class Watch:
    """How a run talks to whoever watches it, and how it is asked to stop."""

    say: Say = lambda text: None
    rows: Callable[[list[Row], int], None] = lambda rows, steps: None
    """Called with every line of metrics and the step that training goes to."""
    stop: Callable[[], bool] = lambda: False


SILENT = Watch()


def sweep(
    recipe: RunConfig, folder: Path, watch: Watch = SILENT, *, force: bool = False, given: Rows | None = None
) -> None:
    """Train every member to the end; a run that was stopped is resumed. Raises `Stopped` if asked to stop.

    A run that exists may be given further members, more steps before its decay, and other intervals of logging and
    checkpoints. `given`: the activations, where `activations.rows` is `given`. Raises `UserError` if the disk has no
    room for its checkpoints, unless `force`.
    """
    with locked(folder):
        _sweep(recipe, folder, watch, force, given)


def _sweep(recipe: RunConfig, folder: Path, watch: Watch, force: bool, given: Rows | None) -> None:
    recipe, manifest = agreed(recipe, folder)
    schedule, whole = sweep_schedule(recipe), entries(recipe)
    folders = {entry.name: folder / "members" / entry.name for entry in whole}
    reached = {name: _reached(path, watch.say) for name, path in folders.items()}
    at_end: list[str] = []
    if manifest is not None:
        made = max(reached.values())
        check_schedule(recipe, manifest, folder, made)
        if manifest["recipe"]["training"]["steps"] != schedule.steps:
            at_end = without_line(folder / "metrics.jsonl", "sweep", reached, schedule.steps)
        manifest = renewed(manifest, recipe, made)
        if min(reached.values()) >= schedule.steps and not at_end:
            _require_same_rows(recipe, manifest, given, folder)
            write_manifest(folder / "run.yaml", manifest)
            watch.say(f"{folder} already has its {schedule.steps:,} steps")
            return
    else:
        recipe = as_new(recipe, activations_read(recipe), watch.say)
    _require_rows_to_extend(recipe, schedule, given)
    inputs = open_inputs(recipe, watch.say, given)
    held = resident()  # before the trials, whose memory is freed and used again
    if manifest is None:
        recipe, measured = settle(recipe, inputs, watch.say)
    else:
        recipe, measured = as_here(recipe, manifest, inputs, watch.say, manifest.get("measured") or {})
        same = {key: manifest["recipe"].get(key) for key in ("name", "sinks")}
        manifest |= {"measured": measured, "recipe": recipes.dump(recipe) | same}
    require_able(recipe, inputs)
    if not force:
        require_room(folder, room(recipe, inputs, schedule, folders), f"the checkpoints of {len(whole)} members")
    rows = recipe.activations.chunk_sequences * (inputs.context or recipe.activations.sequence_length)
    peak = held + memory.chunk(inputs.source, rows) + memory.members(recipe, inputs.source, whole)
    watch.say(f"about {size(peak)} of memory at the peak")
    if not force:
        _require_device_memory(inputs, memory.on_device(recipe, inputs.source, whole, rows, inputs.device))
    if manifest is None:
        manifest = new_manifest(recipe, inputs, measured)
    else:
        check_inputs(manifest, inputs, folder)
        if new := [entry for entry in whole if entry.name not in manifest["members"]]:
            watch.say(f"new members: {', '.join(entry.name for entry in new)}")
            manifest["members"] |= {entry.name: of_member(recipe, inputs, entry) for entry in new}
    write_manifest(folder / "run.yaml", manifest)
    for line in said_of_outliers(manifest):
        watch.say(line)
    if inputs.decode is not None and not (folder / "norms.json").exists():
        write_json(folder / "norms.json", first_norms(inputs, recipe.corpus.counted))
    if any(reached.values()):
        watch.say(f"resuming at step {min(reached.values()):,}")
    metrics, logged, ended = folder / "metrics.jsonl", logged_in(manifest, recipe), ends(manifest, schedule.steps)
    scratch = Scratch()
    members = [_resumed(recipe, manifest, inputs, entry, folder, reached[entry.name], scratch) for entry in whole]
    if at_end:
        train_members(
            recipe, [member for member in members if member.entry.name in at_end], inputs, schedule, 0, schedule.steps,
            metrics, "sweep", {name: folders[name] for name in at_end}, watch,
        )  # fmt: skip
    name_gaps(metrics, "sweep", reached, 0, logged, ended, watch.say)
    # members that are behind catch up: they see the batches that the others saw
    at = dict(reached)
    while (first := min(at.values())) < schedule.steps:
        behind = [member for member in members if at[member.entry.name] == first]
        upto = min((step for step in at.values() if step > first), default=schedule.steps)
        if len(behind) < len(members):
            names = ", ".join(member.entry.name for member in behind)
            watch.say(f"the others are at step {upto:,}; catching up: {names} from step {first:,}")
        of_behind = {member.entry.name: folders[member.entry.name] for member in behind}
        others = any(member.halted_at is None for member in members if member not in behind)
        train_members(
            recipe, behind, inputs, schedule, 0, first, metrics, "sweep", of_behind, watch,
            logged=logged, ended=ended, upto=upto, others=others,
        )  # fmt: skip
        if len(behind) < len(members):
            order_metrics(metrics, list(folders))
        at |= dict.fromkeys(of_behind, upto)
    for line in said_of_missed([row for row in read_metrics(metrics) if row["phase"] == "sweep"]):
        watch.say(line)


def _require_same_rows(recipe: RunConfig, manifest: dict[str, Any], given: Rows | None, folder: Path) -> None:
    """Of a finished run, for which nothing else is opened: raises `UserError` for other rows than its own, as far as
    they are there."""
    rows = recipe.activations.rows
    if rows is not None and (given is not None or (rows != GIVEN and Path(rows).exists())):
        check_rows(manifest, open_rows(recipe, given, torch.device("cpu")).fingerprint, folder)


def _require_rows_to_extend(recipe: RunConfig, schedule: Schedule, given: Rows | None) -> None:
    """Raises `UserError` if the choice is to be trained on from a step whose rows will have come once, and for all."""
    to = recipe.choice.extend_to
    if to is not None and to > schedule.stable_until and isinstance(given, Iterated) and given.once:
        raise UserError(
            f"choice.extend_to = {to:,} trains the choice on from step {schedule.stable_until:,}, and a generator "
            "gives its rows once; leave it out and give it to a second call, with a new generator of the same rows, or "
            "give what can be iterated over again: a list, a DataLoader, a class with __iter__"
        )


def _require_device_memory(inputs: Inputs, needed: int) -> None:
    """Raises `UserError` if the run's device, where that tells, has not so many bytes free."""
    room = free(inputs.device)
    if room is not None and needed > room:
        raise UserError(
            f"the run needs about {size(needed)} on {inputs.device}, which has {size(room)} free; {LESS_MEMORY}, "
            "or give --force"
        )


def _reached(folder: Path, say: Say) -> int:
    """The newest step of which a member has a whole checkpoint; 0 if there is none."""
    if not folder.exists():
        return 0
    checkpoint.tidy(folder)
    reached = checkpoint.newest_whole([folder], say)
    if not reached:
        say(f"{folder.name} has no whole checkpoint: beginning at step 0")
    return reached


def _resumed(
    recipe: RunConfig,
    manifest: dict[str, Any],
    inputs: Inputs,
    entry: Entry,
    folder: Path,
    step: int,
    scratch: Scratch,
) -> Member:
    """The member as it was at a step; at its start for 0."""
    head = None if step else inputs.source.head()
    member = start_member(recipe, manifest, inputs, entry, folder, head, scratch)
    if step:
        checkpoint.load(member, checkpoint.step_folder(folder / "members" / entry.name, step))
    return member


def settle(recipe: RunConfig, inputs: Inputs, say: Say) -> tuple[RunConfig, dict[str, Any]]:
    """(the recipe with nothing left to `auto`, what was measured for that)."""
    if recipe.activations.store is None:
        recipe = pinned(with_matmul(recipe, inputs.model["matmul"]), inputs.corpus)
    recipe, measured = decide(recipe, largest_widths(inputs.source), say)
    if measured:
        say(said(recipe, measured))
    return recipe, measured


def as_here(
    recipe: RunConfig, record: dict[str, Any], inputs: Inputs, say: Say, measured: dict[str, Any]
) -> tuple[RunConfig, dict[str, Any]]:
    """(the recipe of a run that resumes, what was measured), both of this device where the run was on another kind.

    `record`: that has `devices`, see `manifest.moved`. `measured`: what `decide` found where it was before.
    """
    if line := moved(record, inputs.device):
        say(line)
        recipe, found = decide(reopened(recipe, measured), largest_widths(inputs.source), say)
        if found:
            say(said(recipe, found))
            measured = found
    return recipe, measured


def require_able(recipe: RunConfig, inputs: Inputs) -> None:
    """Raises `UserError` if the device cannot take the portable step, where it may be taken, as the recipe asks."""
    portable = recipe.training.kernels == "portable" or inputs.device.type != "cpu"
    dense: Dense = "bf16" if recipe.training.dense == "bf16" and portable else "fp32"
    if dense == "bf16" or recipe.training.compile:
        require(inputs.device, dense, recipe.training.compile)


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
    *,
    logged: Logged | None = None,
    ended: Sequence[int] = (),
    upto: int | None = None,
    others: bool = False,
) -> None:
    """Train from `first` up to the end, or `upto`; the phase `began` at an earlier step if it is resumed.

    Rows of these members behind `first` are made again. `logged`: which steps were, if not by the recipe's interval;
    `ended`: those that were as the last of a shorter run. `others`: the run has members that are trained without these,
    and are not halted.
    """
    t = recipe.training
    if said := repeats(inputs.source, schedule.steps * inputs.source.batch_tokens, steps=True):
        watch.say(said)
    keep_metrics(metrics, lambda row: row["step"] <= first or row["phase"] != phase or row["member"] not in folders)
    every = logged or [[0, t.log_every]]
    spent = [row["seconds"] for row in read_metrics(metrics) if row["phase"] == phase and row["member"] in folders]
    facts = {
        "model": None if recipe.model.name == recipes.UNKNOWN else inputs.model["name"],
        "context": inputs.context or None,
        "modules": inputs.model.get("modules", {}),  # a store of before does not say
        "metadata": {
            "dataset_path": inputs.corpus["source"],
            "run": recipe.name,
            "phase": phase,
            **({"targets": recipe.activations.targets} if recipe.activations.targets else {}),
            **({} if recipe.activations.rows else {"unmix_recipe": store_recipe(recipe)}),
        },
    }

    def log(rows: list[Row]) -> None:
        logged_rows = [row | {"phase": phase} for row in rows]
        append_metrics(metrics, logged_rows)
        for write, _ in sinks:
            write(logged_rows)
        watch.rows(rows, schedule.steps)
        if on_host and (remark := neighbours.remark()):
            watch.say(remark)

    def save(step: int) -> None:
        flush_metrics(metrics)
        for member in members:
            checkpoint.save(member, folders[member.entry.name], step, facts)
        for kept in folders.values():  # not before every member has the new one
            checkpoint.retain(kept, step, last=t.keep_last, every=t.keep_every, always=schedule.stable_until)

    sinks = open_sinks(list(recipe.sinks), metrics.parent, recipes.dump(recipe))
    neighbours, on_host = Neighbours(), all(member.weights["b_enc"].device.type == "cpu" for member in members)
    try:
        with compiling():
            train(
                members,
                inputs.source,
                schedule,
                first=first,
                upto=upto,
                logged=set(logged_steps(first, schedule.steps, every, [*ended, schedule.steps])),
                checkpoint_every=t.checkpoint_every,
                dead_after_tokens=t.dead_after_tokens,
                log=log,
                save=save,
                say=watch.say,
                stop=watch.stop,
                seconds=max(spent, default=0.0),
                others=others,
            )
    finally:
        for _, close in sinks:
            close()


def largest_widths(source: Source) -> dict[str, int]:
    """hook -> D, or E where that is more: what the time of a step is measured at."""
    return {hook: max(D, source.target_widths.get(hook, D)) for hook, D in source.widths.items()}


def repeats(source: Source, asked: int, *, steps: bool = False) -> str:
    """A line, if more activations are asked for than there are; of training, with the step from which they repeat."""
    if asked <= source.size:
        return ""
    since, fewer = "", "a larger corpus, or fewer --tokens"
    if steps:
        since = f", repeating from step {source.size // source.batch_tokens:,} on"
        fewer = "a larger corpus or store, or fewer steps"
    return (
        f"{asked:,} activations are read, and there are {source.size:,}: {asked / source.size:.1f} times over{since}; "
        f"if that is not intended, give {fewer}"
    )


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
    facts = Facts.read(known)
    config, training = recipe.of_variant(entry.variant)
    outliers = manifest["hooks"].get(entry.hook, {}).get("outliers")
    mask = Mask(training.mask, inputs.special_ids, facts.median_norm, outliers)
    width = inputs.source.widths[entry.hook]
    return new_member(
        entry, width, config=config, training=training, facts=facts, mask=mask,
        head=head, scratch=scratch, device=inputs.device, target_width=inputs.source.target_widths.get(entry.hook),
    )  # fmt: skip
