"""A run folder: start it, go on with it, extend its choice.

runs/NAME/run.yaml            the resolved recipe and what it ran on
runs/NAME/norms.json          how long the hooks' activations are, and which tokens are the longest
runs/NAME/metrics.jsonl       a line per member and logged step
runs/NAME/members/MEMBER/     checkpoints of the sweep;  MEMBER-extended/: of the extension
runs/NAME/choice.json         which member, by which rule;  extension.json: how far it was trained on
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unmix
from unmix import config as recipes
from unmix.activations.mask import Mask
from unmix.activations.norms import distribution
from unmix.activations.stream import Batch
from unmix.config import RunConfig
from unmix.disk import require_room, size
from unmix.errors import UserError
from unmix.kernels.dispatch import Scratch
from unmix.precision import resolve
from unmix.runlog import (
    append_metrics,
    flush_metrics,
    gaps,
    keep_metrics,
    logged_steps,
    read_json,
    read_manifest,
    read_metrics,
    write_json,
    write_manifest,
)
from unmix.sinks import open_sinks
from unmix.training import checkpoint, memory
from unmix.training.choice import choose
from unmix.training.inputs import Inputs, Say, flat, open_inputs, store_recipe
from unmix.training.lock import locked
from unmix.training.loop import Row, train
from unmix.training.measure import Facts, measure, norms
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
FORMAT = 1
"""Of run.yaml and what lies beside it (docs/formats.md)."""
_MAY_CHANGE = ("name", "sinks", "choice.", "training.keep_", "training.on_")
_HARMLESS = (".lock", "norms.json", "norms.json.new", "run.yaml.new")  # what a run that was killed at once may leave


# --------------------------------------------------------------------------------------------------------- the sweep


def entries(recipe: RunConfig) -> list[Entry]:
    """Every member; hook and variant stand in the name only where there are several hooks, and any variants."""
    several = len(recipe.activations.hooks) > 1
    found = []
    for hook in recipe.activations.hooks:
        for variant in recipe.variants or [""]:
            before = [hook] * several + [variant] * bool(variant)
            for l1 in recipe.of_variant(variant)[1].l1:
                found.append(Entry("-".join([*before, f"l1-{_short(l1)}"]), hook, variant, l1))
    return found


def _short(l1: float) -> str:
    """`5`, `0.001`; all digits where two coefficients would otherwise share a name."""
    return f"{l1:g}" if float(f"{l1:g}") == l1 else repr(l1)


def sweep_schedule(recipe: RunConfig) -> Schedule:
    """The schedule of the sweep."""
    t = recipe.training
    return Schedule(
        t.steps, t.lr_warmup_steps, round(t.l1_warmup_fraction * t.steps), round(t.decay_fraction * t.steps)
    )


def sweep(recipe: RunConfig, folder: Path, watch: Watch = SILENT, *, force: bool = False) -> None:
    """Train every member to the end; goes on where the run folder stops. Raises `Stopped` if asked to stop.

    Raises `UserError` if the disk has no room for its checkpoints, unless `force`.
    """
    recipe, manifest = _agreed(recipe, folder)
    schedule, whole = sweep_schedule(recipe), entries(recipe)
    folders = {entry.name: folder / "members" / entry.name for entry in whole}
    if checkpoint.is_whole(list(folders.values()), schedule.steps):
        watch.say(f"{folder} has its {schedule.steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say)
    if not force:
        require_room(folder, _room(recipe, inputs, schedule, folders), f"the checkpoints of {len(whole)} members")
    rows = recipe.activations.chunk_sequences * inputs.context
    peak = memory.resident() + memory.chunk(inputs.source, rows) + memory.members(recipe, inputs.source, whole)
    watch.say(f"about {size(peak)} of memory at the peak")
    with locked(folder):
        first = _first_step(folders, watch.say) if manifest is not None else 0
        if manifest is None:
            manifest = _new_manifest(recipe, inputs)
            write_manifest(folder / "run.yaml", manifest)
        _same_inputs(manifest, inputs, folder)
        if not (folder / "norms.json").exists():
            write_json(folder / "norms.json", _norms(inputs))
        head = None if first else inputs.source.head()
        scratch = Scratch()
        members = [_member(recipe, manifest, inputs, entry, folder, head, scratch) for entry in whole]
        if first:
            watch.say(f"going on from step {first:,}")
            for member in members:
                checkpoint.load(member, checkpoint.step_folder(folders[member.entry.name], first))
        _train(recipe, members, inputs, schedule, 0, first, folder / "metrics.jsonl", "sweep", folders, watch)


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
    _same_format(manifest, folder)
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
    _same_inputs(manifest, inputs, folder)
    member = _member(recipe, manifest, inputs, entry, folder, None, Scratch())
    checkpoint.load(member, checkpoint.step_folder(target, first) if have else start)
    if member.halted_at is not None and not have:
        raise UserError(f"{member_name} was halted by batch {member.halted_at:,} of the sweep; extend another --member")
    if not force:
        require_room(folder, _room(recipe, inputs, schedule, {member_name: target}), "the checkpoints of the extension")
    watch.say(f"training {member_name} on from step {first:,}")
    began, metrics = swept.stable_until, folder / "metrics.jsonl"
    _train(recipe, [member], inputs, schedule, began, first, metrics, "extend", {member_name: target}, watch)


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


def read_run(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The recipe and the manifest of a run folder. Raises `UserError` if it is none."""
    path = folder / "run.yaml"
    if not path.exists():
        raise UserError(f"{folder} is no run folder: it has no run.yaml")
    manifest = read_manifest(path)
    return recipes.load_resolved(manifest["recipe"], path), manifest


# ------------------------------------------------------------------------------------------------------------- parts


def _train(
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


def _room(recipe: RunConfig, inputs: Inputs, schedule: Schedule, folders: dict[str, Path]) -> int:
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


def _member(
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
        raise UserError(f"{folder / 'run.yaml'} was written by another version of unmix and cannot be gone on with")
    facts = Facts(**{key: known[key] for key in Facts._fields})
    config, training = recipe.of_variant(entry.variant)
    mask = Mask(training.mask, inputs.special_ids, facts.median_norm)
    width = inputs.source.widths[entry.hook]
    return new_member(
        entry, width, config=config, training=training, facts=facts, mask=mask, head=head, scratch=scratch
    )


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


def _agreed(recipe: RunConfig, folder: Path) -> tuple[RunConfig, dict[str, Any] | None]:
    """The recipe with nothing left open, and the manifest of the folder if there is one.

    Its recipe must be this one, but for the choice.
    """
    if not (folder / "run.yaml").exists():
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, and a run is a folder; move it away, or give another --name")
        if folder.exists() and any(path.name not in _HARMLESS for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; give another --name")
        return resolve(recipe), None
    manifest = read_manifest(folder / "run.yaml")
    _same_format(manifest, folder)
    recipe = resolve(recipe, manifest["recipe"])
    mine, theirs = flat(recipes.dump(recipe)), flat(manifest["recipe"])
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not key.startswith(_MAY_CHANGE):
            raise UserError(
                f"{folder} was made with {key} = {theirs.get(key)}, the recipe says {mine.get(key)}; "
                f"give another --name, or the old value to go on with it"
            )
    now = recipes.dump(recipe) | {key: manifest["recipe"].get(key) for key in ("name", "sinks")}
    if now != manifest["recipe"]:
        manifest["recipe"] = now
        write_manifest(folder / "run.yaml", manifest)
    return recipe, manifest


def _same_format(manifest: dict[str, Any], folder: Path) -> None:
    if manifest.get("format") != FORMAT:
        found = f"format {manifest['format']}" if "format" in manifest else "an older format, without a number"
        raise UserError(
            f"{folder} has {found}; this unmix goes on with {FORMAT}: finish it with the unmix that made it "
            f"({manifest.get('versions', {}).get('unmix', 'unknown')}), or give another --name"
        )


def _new_manifest(recipe: RunConfig, inputs: Inputs) -> dict[str, Any]:
    import transformers

    head = inputs.source.head()
    return {
        "format": FORMAT,
        "recipe": recipes.dump(recipe),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "unmix": unmix.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "model": inputs.model,
        "corpus": inputs.corpus,
        "hooks": {hook: {"width": x_RD.shape[1], **norms(x_RD)} for hook, x_RD in head.activations.items()},
        "members": {
            entry.name: {
                "hook": entry.hook,
                **measure(head, entry.hook, *recipe.of_variant(entry.variant), entry.l1, inputs.special_ids)._asdict(),
            }
            for entry in entries(recipe)
        },
    }


def _norms(inputs: Inputs) -> dict[str, Any]:
    """How long the hooks' activations are, and which tokens are the longest, over the first chunk."""
    head = inputs.source.head()
    ids, positions = head.token_ids_B.numpy(), head.positions_B.numpy()
    return distribution(
        {hook: x_RD.norm(dim=1).numpy() for hook, x_RD in head.activations.items()},
        ids,
        positions,
        bos_id=int(ids[positions == 0][0]) if (positions == 0).any() else -1,
        decode=inputs.decode,
        split="train",
    )


def _same_inputs(manifest: dict[str, Any], inputs: Inputs, folder: Path) -> None:
    for what, now in (("model", inputs.model), ("corpus", inputs.corpus)):
        then = manifest[what]["fingerprint"]
        if then != now["fingerprint"]:
            raise UserError(
                f"the {what} is not the one that {folder} was made with (fingerprint {now['fingerprint']}, "
                f"was {then}); "
                f"bring the old one back, or give another --name"
            )
    if manifest["corpus"].get("store_fingerprint") != inputs.corpus.get("store_fingerprint"):
        raise UserError(
            f"the store is not as it was when {folder} was made: it grew, or was harvested anew; give another --name"
        )


def cpu_name() -> str:
    """What the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
