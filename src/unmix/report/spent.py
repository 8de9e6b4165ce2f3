"""What a run has cost: tokens and seconds of its sweep and of its extensions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from unmix.report import words
from unmix.report.data import Floats, Member, RunData


def furthest(run: RunData) -> dict[str, float]:
    """The last row of the member that has seen most tokens."""
    ends = [member.whole().last() for member in run.members]
    return max(ends, key=lambda row: row["tokens"] if math.isfinite(row["tokens"]) else -1.0)


class Passes(NamedTuple):
    """The passes over the stream that made up a sweep: one, unless members were added to it and caught up."""

    seconds: float
    tokens: float
    at_once: bool
    """Whether it was one."""


def passes(run: RunData) -> Passes:
    """Members that were trained at once end a step at the same second; others have passes of their own, and add up."""
    at: dict[float, dict[float, list[tuple[str, float]]]] = {}
    for member in run.members:
        rows = member.sweep
        for step, ended, seen in zip(rows["step"], rows["seconds"], rows["tokens"], strict=True):
            if math.isfinite(ended):
                at.setdefault(float(step), {}).setdefault(float(ended), []).append((member.name, float(seen)))
    spent, read, at_once = 0.0, 0.0, True
    before: dict[str, tuple[float, float]] = {}
    for _, together in sorted(at.items()):
        at_once &= len(together) == 1
        for ended, members in together.items():
            began, had = (max(before.get(name, (0.0, 0.0))[i] for name, _ in members) for i in range(2))
            have = max(seen for _, seen in members)
            spent, read = spent + max(0.0, ended - began), read + have - had
            before |= {name: (ended, seen) for name, seen in members}
    return Passes(spent, read, at_once)


def seconds(run: RunData, phase: str) -> float:
    """Training time of a phase, 0 if there was none: of all passes of the sweep, or of the extensions, one by one."""
    if phase == "sweep":
        return passes(run).seconds
    ends = [known for member in run.members if len(known := _known(member.extension["seconds"]))]
    return sum(float(known.max()) for known in ends)


def _known(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def tokens(run: RunData, phase: str) -> float:
    """Tokens that every member was trained on in the sweep, or all that were extended in their extensions."""
    if phase == "sweep":
        return max((member.sweep.last()["tokens"] for member in run.members if len(member.sweep)), default=0.0)
    return sum(_further(member) for member in run.extended())


def _further(extended: Member) -> float:
    """Tokens of one member's extension."""
    end, first = extended.extension.last(), extended.extension.at(0)
    per_step = end["tokens"] / end["step"] if end["step"] else 0.0
    start = extended.extended_from if extended.extended_from < first["step"] else first["step"]
    return end["tokens"] - start * per_step


def rate(run: RunData, phase: str) -> str:
    """Tokens that were trained on in a second, of however many members at once."""
    spent, seen = seconds(run, phase), passes(run).tokens if phase == "sweep" else tokens(run, phase)
    return f"{words.number(seen / spent)} tokens/s" if spent > 0 and seen > 0 else ""
