"""What a picture of the report is, and what all of those about training say in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmix.report import axes, words
from unmix.report.data import Floats, Member, RunData


@dataclass(frozen=True)
class Picture:
    """A PNG and the words beside it."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def new_figure(count: int, title: str, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with its title and `count` panels below each other."""
    each = height or (3.0 if count == 1 else 2.4)
    figure = Figure(figsize=(axes.WIDTH, each * count + 0.55), layout="constrained")
    figure.suptitle(title, x=0.015, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    return figure, [figure.add_subplot(count, 1, index + 1) for index in range(count)]


def name_panel(panel: Axes, name: str) -> None:
    """What a panel is of, in grey above it: a hook, a variant, an L0."""
    short = name if len(name) <= 40 else f"{name[:18]}…{name[-18:]}"
    panel.set_title(short, loc="left", fontsize=10, color=axes.GREY, parse_math=False)


def room(panel: Axes, values: Floats) -> None:
    """A linear scale with some room around the values, which end at 1."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    more = 0.12 * (high - low) or 0.05
    panel.set_ylim(low - more, min(high + more, 1.0) if high < 1 else high + more)


def named(run: RunData, member: Member) -> str:
    """A member in a sentence: what it was asked for, and where there are several, its hook and variant."""
    return member.request.label + of(run, member)


def of(run: RunData, member: Member) -> str:
    """` on HOOK, VARIANT`, or `, VARIANT` where there is one hook; nothing where there is one group."""
    apart = run.apart(member)
    return apart and (f" on {apart}" if len(run.hooks()) > 1 else f", {apart}")


def tokens_per_step(members: Sequence[Member]) -> float:
    """Of the one that had most, over all it was trained on: one that was halted has had none since."""
    ends = [member.whole().last() for member in members]
    return max((row["tokens"] / row["step"] for row in ends if row["tokens"] > 0), default=float("nan"))


def averaged(run: RunData, lines: bool = True) -> str:
    """Over how many tokens the rows are means; that lines are smoothed, where they are."""
    counts = set()
    for member in run.members:
        over = np.concatenate([rows["over_tokens"] for rows in (member.sweep, member.extension)])
        if (over > 0).any():  # no mean is over no token
            counts.add(float(np.median(over[over > 0])))
    if not counts:
        return ""
    text = f"Means over {words.between(min(counts), max(counts))} tokens of the training stream"
    smoothed = lines and max(len(member.sweep) for member in run.members) >= 2 * axes.SMOOTH
    return text + ("; bold lines are smoothed, faint ones are not." if smoothed else ".")
