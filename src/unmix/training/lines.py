"""Which lines of metrics a member has to have by the step that it has reached, and which it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmix.runlog import Logged, gaps, logged_steps, read_metrics
from unmix.training.inputs import Say


def without_line(metrics: Path, phase: str, reached: dict[str, int], step: int) -> list[str]:
    """Members that have come to this step and have no line of it: it was no end when they did."""
    there = {row["member"] for row in read_metrics(metrics) if row["phase"] == phase and row["step"] == step}
    return [name for name, at in reached.items() if at == step and name not in there]


def name_gaps(
    metrics: Path, phase: str, reached: dict[str, int], began: int, logged: Logged, ends: Sequence[int], say: Say
) -> None:
    """Say which rows of a phase are missing, doubled or strange, up to the step that each member has reached."""
    rows = [row for row in read_metrics(metrics) if row["phase"] == phase]
    for member, step in reached.items():
        own = [row for row in rows if row["member"] == member and row["step"] <= step]
        for lost in gaps(own, [member], logged_steps(began, step, logged, ends)):
            say(f"warning: {metrics}: {lost}")
