"""After the sweep: which member of each hook or variant, by the rule; what came true of the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.runlog import read_choices, read_metrics, write_choices
from unmix.training.choice import Row, choose, level, measured, steady
from unmix.training.manifest import read_run, sweep_schedule


def make_choices(folder: Path, max_active: float, predict_step: int | None = None) -> list[dict[str, Any]]:
    """Apply the rule to the metrics of each hook, and write `choice.json`: members of two hooks are not compared.

    With `choice.per_variant`, neither are members of two variants of a hook: there is a choice for each.
    If the extension that the recipe plans decays before the step in question, L0 is predicted for where that begins.
    """
    recipe, _ = read_run(folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == "sweep"]
    if not rows:
        raise UserError(f"{folder} has no metrics yet; finish `unmix sweep` first")
    end = recipe.choice.extend_to or 0
    decays_from = end - round(recipe.choice.extend_decay_fraction * end)
    at, decay_to = end or recipe.training.steps if predict_step is None else predict_step, None
    if decays_from < at <= end:
        at, decay_to = decays_from, end
    warmup = sweep_schedule(recipe).l1_warmup_steps
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variant = row.get("variant", "") if recipe.choice.per_variant else ""
        groups.setdefault((row["hook"], variant), []).append(row)
    choices = []
    for (_, variant), own in groups.items():
        choice = choose(own, max_active=max_active, predict_step=at, warmup=warmup, decay_to=decay_to)
        choices.append(choice | ({"variant": variant} if variant else {}))
    write_choices(folder, choices)
    return choices


def note_what_came_true(folder: Path) -> list[dict[str, Any]]:
    """Set the L0 measured at the step in question beside the one predicted, if the member has been trained to it.

    Where the learning rate had begun to decay by then, nothing is claimed. Returns the choices.
    """
    choices = read_choices(folder)
    if not choices:
        raise UserError(f"{folder} has no choice; make one with `unmix choose {folder}`")
    rows = measured(read_metrics(folder / "metrics.jsonl"))
    for choice in choices:
        own, at = [row for row in rows if row["member"] == choice["member"]], choice["predict_step"]
        choice["came_true"] = _what_came(own, at, predicted=at > choice["at_step"])
    write_choices(folder, choices)
    return choices


def _what_came(rows: list[Row], at: int, *, predicted: bool) -> dict[str, Any] | None:
    """`step` and `l0` as measured in the extension if it was predicted, else in the sweep; None if it was not there."""
    there = [row for row in rows if (row["phase"] == "extend") == predicted]
    curve = steady(rows) if predicted else there
    decayed = predicted and any(row["step"] <= at and row not in curve for row in there)
    reached = any(row["step"] >= at for row in there)
    return {"step": at, "l0": level(curve, at)} if reached and not decayed else None
