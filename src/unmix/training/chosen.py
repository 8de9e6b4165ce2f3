"""After the sweep: which member, by the rule; that one trained on; what came true of the prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from unmix.disk import require_room
from unmix.errors import UserError
from unmix.kernels.dispatch import Scratch
from unmix.precision import keep
from unmix.runlog import append_metrics, keep_metrics, read_json, read_metrics, write_json
from unmix.training import checkpoint
from unmix.training.choice import choose
from unmix.training.inputs import open_inputs
from unmix.training.lock import locked
from unmix.training.loop import Row
from unmix.training.manifest import check_format, check_inputs, entries, read_run, sweep_schedule
from unmix.training.run import SILENT, Watch, room, start_member, train_members
from unmix.training.schedule import Schedule


def make_choice(folder: Path, max_active: float, predict_step: int | None = None) -> dict[str, Any]:
    """Apply the rule to the run's metrics and write `choice.json`."""
    recipe, _ = read_run(folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == "sweep"]
    if not rows:
        raise UserError(f"{folder} has no metrics yet; finish `unmix sweep` first")
    at = predict_step or recipe.choice.extend_to or recipe.training.steps
    choice = choose(rows, max_active=max_active, predict_step=at, stable_until=sweep_schedule(recipe).stable_until)
    write_json(folder / "choice.json", choice)
    return choice


def extend(
    folder: Path,
    member_name: str,
    steps: int,
    decay_fraction: float = 0.0,
    watch: Watch = SILENT,
    *,
    force: bool = False,
) -> None:
    """Train one member on to `steps`, from its state before any decay. Goes on where an extension stops."""
    read_run(folder)
    with locked(folder):
        _extend(folder, member_name, steps, decay_fraction, watch, force)


def _extend(folder: Path, member_name: str, steps: int, decay_fraction: float, watch: Watch, force: bool) -> None:
    recipe, manifest = read_run(folder)
    check_format(manifest, folder)
    recipe = keep(recipe, manifest["recipe"])
    swept = sweep_schedule(recipe)
    entry = next((e for e in entries(recipe) if e.name == member_name), None)
    if entry is None:
        raise UserError(f"{folder} has no member {member_name!r}; it has {', '.join(e.name for e in entries(recipe))}")
    if steps < swept.stable_until:
        raise UserError(f"--steps {steps} is less than the {swept.stable_until:,} steps that {member_name} has")
    start = checkpoint.step_folder(folder / "members" / member_name, swept.stable_until)
    if not start.exists():
        raise UserError(f"{member_name} has not come to step {swept.stable_until:,} yet; finish `unmix sweep` first")
    if wrong := checkpoint.damage(start):
        raise UserError(f"{wrong}; the extension begins there: bring it back from a copy, or sweep anew")
    schedule = Schedule(steps, swept.lr_warmup_steps, swept.l1_warmup_steps, round(decay_fraction * steps))
    if schedule.stable_until < swept.stable_until:
        most = 1 - swept.stable_until / steps
        raise UserError(
            f"a decay over the last {decay_fraction:g} of {steps:,} steps would begin before step "
            f"{swept.stable_until:,}, where the extension begins; give at most {math.floor(most * 1000) / 1000:g}"
        )
    plan_path = folder / "extension.json"
    plan = {"member": member_name, "from_step": swept.stable_until, "to_step": steps, "decay_fraction": decay_fraction}
    target = folder / "members" / f"{member_name}-extended"
    old = read_json(plan_path)
    if old is not None and (old.keys() != plan.keys() or old["member"] not in [e.name for e in entries(recipe)]):
        raise UserError(f"{plan_path} is damaged: it plans for no member of this run; remove it, and the extension")
    if old is not None and old != plan:
        after = 0
        if old["member"] == member_name:
            # only what was trained before the old plan's decay can be gone on from
            stable = old["to_step"] - round(old["decay_fraction"] * old["to_step"])
            usable = [s for s in checkpoint.steps_on_disk(target) if s <= min(stable, schedule.stable_until)]
            after = max(usable, default=swept.stable_until)
        _supersede(folder, old["member"], after)
    write_json(plan_path, plan)
    checkpoint.tidy(target)
    have = checkpoint.newest_whole([target], watch.say)
    first = have or swept.stable_until
    if first >= steps:
        watch.say(f"{member_name} has its {steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say)
    check_inputs(manifest, inputs, folder)
    member = start_member(recipe, manifest, inputs, entry, folder, None, Scratch())
    checkpoint.load(member, checkpoint.step_folder(target, first) if have else start)
    if member.halted_at is not None and not have:
        raise UserError(f"{member_name} was halted by batch {member.halted_at:,} of the sweep; extend another --member")
    if not force:
        require_room(folder, room(recipe, inputs, schedule, {member_name: target}), "the checkpoints of the extension")
    watch.say(f"training {member_name} on from step {first:,}")
    began, metrics = swept.stable_until, folder / "metrics.jsonl"
    train_members(recipe, [member], inputs, schedule, began, first, metrics, "extend", {member_name: target}, watch)


def _supersede(folder: Path, member: str, after: int) -> None:
    """Put aside what an extension that is planned anew has beyond a step: kept, but no part of the run any more."""

    def gone(row: Row) -> bool:
        return bool(row["phase"] == "extend" and row["step"] > after)

    metrics = folder / "metrics.jsonl"
    append_metrics(folder / "metrics.superseded.jsonl", [row for row in read_metrics(metrics) if gone(row)])
    keep_metrics(metrics, lambda row: not gone(row))
    target = folder / "members" / f"{member}-extended"
    for step in checkpoint.steps_on_disk(target):
        if step > after:
            aside = checkpoint.step_folder(target / "superseded", step)
            aside.parent.mkdir(exist_ok=True)
            checkpoint.remove(target / "superseded", step)
            checkpoint.step_folder(target, step).rename(aside)


def note_what_came_true(folder: Path) -> dict[str, Any]:
    """Set the L0 that the extension reached beside the one predicted; answers the choice."""
    path = folder / "choice.json"
    choice = read_json(path)
    if choice is None:
        raise UserError(f"{folder} has no choice; make one with `unmix choose {folder}`")
    curve = [
        row
        for row in read_metrics(folder / "metrics.jsonl")
        if row["phase"] == "extend" and row["member"] == choice["member"]
    ]
    if curve:
        tail = curve[-max(1, len(curve) // 20) :]
        choice["came_true"] = {"step": curve[-1]["step"], "l0": float(np.median([row["l0"] for row in tail]))}
        write_json(path, choice)
    return choice
