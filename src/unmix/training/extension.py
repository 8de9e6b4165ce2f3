"""Members trained on beyond the sweep, each from its state before any decay: one extension a member.

RUN/extension.json            member -> from_step, to_step, decay_fraction; logged, ended: which steps it logs
RUN/members/NAME-extended/    its checkpoints; superseded/1, 2 …: what an extension planned anew put aside
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unmix.activations.rows import Rows
from unmix.config import RunConfig
from unmix.disk import require_room
from unmix.errors import UserError
from unmix.kernels.dispatch import Scratch
from unmix.precision import keep
from unmix.runlog import Logged, append_metrics, keep_metrics, read_extensions, read_metrics, write_json
from unmix.training import checkpoint
from unmix.training.inputs import open_inputs
from unmix.training.lines import name_gaps, without_line
from unmix.training.lock import locked
from unmix.training.loop import Row
from unmix.training.manifest import check_format, check_inputs, entries, read_run, sweep_schedule
from unmix.training.room import room
from unmix.training.run import SILENT, Watch, as_here, require_able, start_member, train_members
from unmix.training.schedule import Schedule


def extend(
    folder: Path,
    member_name: str,
    steps: int,
    decay_fraction: float = 0.0,
    watch: Watch = SILENT,
    *,
    anew: bool = False,
    force: bool = False,
    given: Rows | None = None,
) -> None:
    """Train one member on to `steps`, from its state before any decay; resumes an extension that was stopped.

    A longer one continues a shorter one if that had no decay yet. Otherwise it would have to begin before what is
    there: raises `UserError`, unless `anew`, which puts aside what is beyond.
    """
    read_run(folder)
    with locked(folder):
        _extend(folder, member_name, steps, decay_fraction, watch, anew, force, given)


def _extend(
    folder: Path,
    member_name: str,
    steps: int,
    decay_fraction: float,
    watch: Watch,
    anew: bool,
    force: bool,
    given: Rows | None,
) -> None:
    recipe, manifest = read_run(folder)
    check_format(manifest, folder)
    recipe = keep(recipe, manifest["recipe"])
    swept = sweep_schedule(recipe)
    entry = next((e for e in entries(recipe) if e.name == member_name), None)
    if entry is None:
        raise UserError(f"{folder} has no member {member_name!r}; it has {', '.join(e.name for e in entries(recipe))}")
    if steps < swept.stable_until:
        raise UserError(
            f"{steps:,} steps are fewer than the {swept.stable_until:,} that {member_name} has; give the total, not "
            "what is to be added"
        )
    start = checkpoint.step_folder(folder / "members" / member_name, swept.stable_until)
    if not start.exists():
        raise UserError(f"{member_name} has not come to step {swept.stable_until:,} yet; finish `unmix sweep` first")
    if wrong := checkpoint.damage(start):
        raise UserError(f"{wrong}; the extension begins there: restore it from a copy, or sweep again")
    schedule = Schedule(steps, swept.lr_warmup_steps, swept.l1_warmup_steps, round(decay_fraction * steps))
    if schedule.stable_until < swept.stable_until:
        most = 1 - swept.stable_until / steps
        raise UserError(
            f"a decay over the last {decay_fraction:g} of {steps:,} steps would begin before step "
            f"{swept.stable_until:,}, where the extension begins; give at most {math.floor(most * 1000) / 1000:g}"
        )
    plans = read_extensions(folder)
    if strangers := plans.keys() - {e.name for e in entries(recipe)}:
        raise UserError(
            f"{folder / 'extension.json'} is damaged: it plans for {min(strangers)!r}, no member of this run; remove it"
        )
    plan = {"from_step": swept.stable_until, "to_step": steps, "decay_fraction": decay_fraction}
    target = folder / "members" / f"{member_name}-extended"
    checkpoint.tidy(target)
    old = plans.get(member_name)
    if old is not None and not (isinstance(old, dict) and plan.items() <= old.items()):
        _continue(folder, member_name, old, schedule, anew, in_python=given is not None)
    have = checkpoint.newest_whole([target], watch.say)
    first = have or swept.stable_until
    every, ended = extension_logged(old or plan, recipe), extension_ends(old or {})
    if every[-1][1] != recipe.training.log_every:
        every = [*(pair for pair in every if pair[0] < first), [first, recipe.training.log_every]]
    ended = sorted({step for step in ended if step <= first and step != steps})
    devices = old.get("devices", []) if old else manifest.get("devices", [])[-1:]
    record = plan | {"logged": every, "ended": ended, "devices": devices}
    write_json(folder / "extension.json", plans | {member_name: record})
    metrics, new_end = folder / "metrics.jsonl", old is None or old.get("to_step") != steps
    if first >= steps and not (new_end and have and without_line(metrics, "extend", {member_name: first}, steps)):
        watch.say(f"{member_name} already has its {steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say, given, read=steps * recipe.training.batch_tokens)
    check_inputs(manifest, inputs, folder)
    recipe, _ = as_here(recipe, record, inputs, watch.say, manifest.get("measured") or {})
    require_able(recipe, inputs)
    write_json(folder / "extension.json", plans | {member_name: record})
    member = start_member(recipe, manifest, inputs, entry, folder, None, Scratch())
    checkpoint.load(member, checkpoint.step_folder(target, first) if have else start)
    if member.halted_at is not None and not have:
        raise UserError(f"{member_name} was halted by batch {member.halted_at:,} of the sweep; extend another --member")
    if not force:
        require_room(folder, room(recipe, inputs, schedule, {member_name: target}), "the checkpoints of the extension")
    watch.say(f"training {member_name} further from step {first:,}")
    began = swept.stable_until
    name_gaps(metrics, "extend", {member_name: first}, began, every, ended, watch.say)
    of_member = {member_name: target}
    train_members(recipe, [member], inputs, schedule, began, first, metrics, "extend", of_member, watch, logged=every)


def extension_logged(plan: dict[str, Any], recipe: RunConfig) -> Logged:
    """Which steps an extension logs; plans of before do not say that it was ever another interval."""
    return plan.get("logged") or [[0, recipe.training.log_every]]


def extension_ends(plan: dict[str, Any]) -> list[int]:
    """The last steps of an extension: that of now, and where it had ended before it was given more."""
    return [*plan.get("ended", []), *([plan["to_step"]] if "to_step" in plan else [])]


def _continue(folder: Path, member: str, old: Any, schedule: Schedule, anew: bool, in_python: bool) -> None:
    """See that what an earlier plan made is the beginning of the new one; else put aside what is not, if asked."""
    target = folder / "members" / f"{member}-extended"
    try:
        stable = old["to_step"] - round(old["decay_fraction"] * old["to_step"])
    except (KeyError, TypeError):
        raise UserError(f"{folder / 'extension.json'} is damaged at {member}; remove it, and {target}") from None
    steps = checkpoint.steps_on_disk(target)
    done = max(steps, default=0)
    if schedule.steps < done and not anew:
        raise UserError(
            f"{schedule.steps:,} steps are fewer than the {done:,} that {member}-extended has; give the total"
        )
    usable = min(stable, schedule.stable_until)
    beyond = [step for step in steps if step > usable]
    if not steps:  # nothing was saved, or somebody has moved it away
        _put_aside(folder, member, 0, [])
    if not beyond:
        return
    if not anew:
        why = f"it decays from step {stable:,}" if stable < done else "the new decay begins before that"
        into = target / "superseded"
        remedy = f"give --anew to put {len(beyond)} checkpoints aside, into {into}, or other --steps and --decay"
        if in_python:  # where there is no --anew
            remedy = f"move {target} out of the run, or give another choice.extend_to or choice.extend_decay_fraction"
        raise UserError(
            f"{member} is extended to {done:,} steps, and {why}, so the new extension begins earlier; {remedy}"
        )
    _put_aside(folder, member, max((step for step in steps if step <= usable), default=0), beyond)


def _put_aside(folder: Path, member: str, after: int, steps: list[int]) -> None:
    """Keep these checkpoints and the rows after a step, though no longer as part of the run."""

    def gone(row: Row) -> bool:
        return bool(row["phase"] == "extend" and row["member"] == member and row["step"] > after)

    metrics = folder / "metrics.jsonl"
    if not (rows := [row for row in read_metrics(metrics) if gone(row)]) and not steps:
        return
    append_metrics(folder / "metrics.superseded.jsonl", rows)
    keep_metrics(metrics, lambda row: not gone(row))
    target = folder / "members" / f"{member}-extended"
    number = 1 + max((int(p.name) for p in target.glob("superseded/*") if p.name.isdigit()), default=0)
    for step in steps:
        aside = checkpoint.step_folder(target / "superseded" / str(number), step)
        aside.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.step_folder(target, step).rename(aside)
