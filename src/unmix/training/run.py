"""A run folder: start it, go on with it, extend its choice.

runs/NAME/run.yaml            the resolved recipe and what it ran on
runs/NAME/norms.json          how long the hooks' activations are, and which tokens are the longest
runs/NAME/metrics.jsonl       a line per member and logged step
runs/NAME/members/MEMBER/     checkpoints of the sweep;  MEMBER-extended/: of the extension
runs/NAME/choice.json         which member, by which rule;  extension.json: how far it was trained on
"""

from __future__ import annotations

import json
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
from unmix.errors import UserError
from unmix.runlog import append_metrics, keep_metrics, read_manifest, read_metrics, write_json, write_manifest
from unmix.sinks import open_sinks
from unmix.training import checkpoint
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


def sweep(recipe: RunConfig, folder: Path, watch: Watch = SILENT) -> None:
    """Train every member to the end; goes on where the run folder stops. Raises `Stopped` if asked to stop."""
    manifest = _agreed(recipe, folder)
    schedule, whole = sweep_schedule(recipe), entries(recipe)
    folders = {entry.name: folder / "members" / entry.name for entry in whole}
    if _newest_common(folders) >= schedule.steps:
        watch.say(f"{folder} has its {schedule.steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say)
    with locked(folder):
        first = _newest_common(folders)
        if manifest is None:
            manifest = _new_manifest(recipe, inputs)
            write_json(folder / "norms.json", _norms(inputs))
            write_manifest(folder / "run.yaml", manifest)
        _same_inputs(manifest, inputs, folder)
        head = None if first else inputs.source.head()
        members = [_member(recipe, manifest, inputs, entry, folder, head) for entry in whole]
        if first:
            watch.say(f"going on from step {first:,}")
            for member in members:
                checkpoint.load(member, checkpoint.step_folder(folders[member.entry.name], first))
        metrics = folder / "metrics.jsonl"
        keep_metrics(metrics, lambda row: row["step"] <= first or row["phase"] != "sweep")
        _train(recipe, members, inputs, schedule, first, metrics, "sweep", folders, watch)


def _newest_common(folders: dict[str, Path]) -> int:
    """The newest step of which every member has a whole checkpoint; 0 if there is none."""
    return max(set.intersection(*(set(checkpoint.steps_on_disk(f)) for f in folders.values())), default=0)


def extend(folder: Path, member_name: str, steps: int, decay_fraction: float = 0.0, watch: Watch = SILENT) -> None:
    """Train one member on to `steps`, from its state before any decay. Goes on where an extension stops."""
    read_run(folder)
    with locked(folder):
        _extend(folder, member_name, steps, decay_fraction, watch)


def _extend(folder: Path, member_name: str, steps: int, decay_fraction: float, watch: Watch) -> None:
    recipe, manifest = read_run(folder)
    swept = sweep_schedule(recipe)
    entry = next((e for e in entries(recipe) if e.name == member_name), None)
    if entry is None:
        raise UserError(f"{folder} has no member {member_name!r}; it has {', '.join(e.name for e in entries(recipe))}")
    if steps < swept.stable_until:
        raise UserError(f"--steps {steps} is less than the {swept.stable_until:,} steps that {member_name} has")
    start = checkpoint.step_folder(folder / "members" / member_name, swept.stable_until)
    if not (start / checkpoint.STATE).exists():
        raise UserError(f"{member_name} has not come to step {swept.stable_until:,} yet; finish `unmix sweep` first")
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
    if plan_path.exists() and (old := json.loads(plan_path.read_text())) != plan:
        after = 0
        if old["member"] == member_name:
            # only what was trained before the old plan's decay can be gone on from
            stable = old["to_step"] - round(old["decay_fraction"] * old["to_step"])
            usable = [s for s in checkpoint.steps_on_disk(target) if s <= min(stable, schedule.stable_until)]
            after = max(usable, default=swept.stable_until)
        _supersede(folder, old["member"], after)
    write_json(plan_path, plan)
    have = checkpoint.steps_on_disk(target)
    first = max(have, default=swept.stable_until)
    if first >= steps:
        watch.say(f"{member_name} has its {steps:,} steps")
        return
    inputs = open_inputs(recipe, watch.say)
    _same_inputs(manifest, inputs, folder)
    member = _member(recipe, manifest, inputs, entry, folder, None)
    checkpoint.load(member, checkpoint.step_folder(target, first) if have else start)
    watch.say(f"training {member_name} on from step {first:,}")
    metrics = folder / "metrics.jsonl"
    keep_metrics(metrics, lambda row: row["step"] <= first or row["phase"] != "extend")
    _train(recipe, [member], inputs, schedule, first, metrics, "extend", {member_name: target}, watch)


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
    choice: dict[str, Any] = json.loads(path.read_text())
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
    first: int,
    metrics: Path,
    phase: str,
    folders: dict[str, Path],
    watch: Watch,
) -> None:
    t = recipe.training
    spent = [row["seconds"] for row in read_metrics(metrics) if row["phase"] == phase]
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

    previous = first

    def save(step: int) -> None:
        nonlocal previous
        for member in members:
            checkpoint.save(member, folders[member.entry.name], step, facts)
        if previous not in (step, schedule.stable_until):  # not before every member has the new one
            for member in members:
                checkpoint.remove(folders[member.entry.name], previous)
        previous = step

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
            stop=watch.stop,
            seconds=max(spent, default=0.0),
        )
    finally:
        for _, close in sinks:
            close()


def _member(
    recipe: RunConfig, manifest: dict[str, Any], inputs: Inputs, entry: Entry, folder: Path, head: Batch | None
) -> Member:
    """The member at its start; without `head`, it waits for a checkpoint to be loaded."""
    known = manifest.get("members", {}).get(entry.name)
    if known is None:
        raise UserError(f"{folder / 'run.yaml'} was written by another version of unmix and cannot be gone on with")
    facts = Facts(**{key: known[key] for key in Facts._fields})
    config, training = recipe.of_variant(entry.variant)
    mask = Mask(training.mask, inputs.special_ids, facts.median_norm)
    width = inputs.source.widths[entry.hook]
    return new_member(entry, width, config=config, training=training, facts=facts, mask=mask, head=head)


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


def _agreed(recipe: RunConfig, folder: Path) -> dict[str, Any] | None:
    """The manifest of the folder if there is one; its recipe must be this one, but for the choice."""
    if not (folder / "run.yaml").exists():
        if folder.exists() and any(path.name != ".lock" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; give another --name")
        return None
    manifest = read_manifest(folder / "run.yaml")
    mine, theirs = flat(recipes.dump(recipe)), flat(manifest["recipe"])
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not key.startswith("choice.") and key not in ("name", "sinks"):
            raise UserError(
                f"{folder} was made with {key} = {theirs.get(key)}, the recipe says {mine.get(key)}; "
                f"give another --name, or the old value to go on with it"
            )
    if recipes.dump(recipe)["choice"] != manifest["recipe"]["choice"]:
        manifest["recipe"]["choice"] = recipes.dump(recipe)["choice"]
        write_manifest(folder / "run.yaml", manifest)
    return manifest


def _new_manifest(recipe: RunConfig, inputs: Inputs) -> dict[str, Any]:
    import transformers

    head = inputs.source.head()
    return {
        "recipe": recipes.dump(recipe),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "unmix": unmix.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
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


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
