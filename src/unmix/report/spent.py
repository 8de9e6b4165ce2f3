"""What a run has cost: tokens and seconds of its sweep and of its extensions."""

from __future__ import annotations

import math

import numpy as np

from unmix.report import words
from unmix.report.data import Member, RunData


def furthest(run: RunData) -> dict[str, float]:
    """The last row of the member that has seen most tokens."""
    ends = [member.whole().last() for member in run.members]
    return max(ends, key=lambda row: row["tokens"] if math.isfinite(row["tokens"]) else -1.0)


def seconds(run: RunData, phase: str) -> float:
    """Training time of a phase, 0 if there was none: members of a sweep are trained at once, extensions in turn."""
    rows = [member.sweep if phase == "sweep" else member.extension for member in run.members]
    each = [float(known.max()) for part in rows if len(known := part["seconds"][np.isfinite(part["seconds"])])]
    return (max if phase == "sweep" else sum)(each) if each else 0.0


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
    spent, seen = seconds(run, phase), tokens(run, phase)
    return f"{words.number(seen / spent)} tokens/s" if spent > 0 and seen > 0 else ""
