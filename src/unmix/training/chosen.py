"""After the sweep: which member, by the rule; that one trained on; what came true of the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.runlog import read_json, read_metrics, write_json
from unmix.training.choice import Row, choose, level, measured, steady
from unmix.training.manifest import read_run, sweep_schedule


def make_choice(folder: Path, max_active: float, predict_step: int | None = None) -> dict[str, Any]:
    """Apply the rule to the run's metrics and write `choice.json`.

    If the extension that the recipe plans decays before the step in question, L0 is predicted for where that begins.
    """
    recipe, _ = read_run(folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["phase"] == "sweep"]
    if not rows:
        raise UserError(f"{folder} has no metrics yet; finish `unmix sweep` first")
    end = recipe.choice.extend_to or 0
    decays_from = end - round(recipe.choice.extend_decay_fraction * end)
    at, decay_to = predict_step or end or recipe.training.steps, None
    if decays_from < at <= end:
        at, decay_to = decays_from, end
    warmup = sweep_schedule(recipe).l1_warmup_steps
    choice = choose(rows, max_active=max_active, predict_step=at, warmup=warmup, decay_to=decay_to)
    write_json(folder / "choice.json", choice)
    return choice


def note_what_came_true(folder: Path) -> dict[str, Any]:
    """Set the L0 measured at the step in question beside the one predicted, if the member has been trained to it.

    Where the learning rate had begun to decay by then, nothing is claimed. Returns the choice.
    """
    path = folder / "choice.json"
    choice = read_json(path)
    if choice is None:
        raise UserError(f"{folder} has no choice; make one with `unmix choose {folder}`")
    own = [row for row in measured(read_metrics(folder / "metrics.jsonl")) if row["member"] == choice["member"]]
    choice["came_true"] = _what_came(own, choice["predict_step"], predicted=choice["predict_step"] > choice["at_step"])
    write_json(path, choice)
    return choice


def _what_came(rows: list[Row], at: int, *, predicted: bool) -> dict[str, Any] | None:
    """`step` and `l0` as measured in the extension if it was predicted, else in the sweep; None if it was not there."""
    there = [row for row in rows if (row["phase"] == "extend") == predicted]
    curve = steady(rows) if predicted else there
    decayed = predicted and any(row["step"] <= at and row not in curve for row in there)
    reached = any(row["step"] >= at for row in there)
    return {"step": at, "l0": level(curve, at)} if reached and not decayed else None
