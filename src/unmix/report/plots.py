"""The pictures of a report, each with a caption that says what one sees, in which unit, over how many tokens.

One panel a hook (and variant); within a panel a line a coefficient, coloured in the order of l1, dashed in turn, named
at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmix.report import axes, words
from unmix.report.data import Candidate, Choice, Floats, Member, RunData


@dataclass(frozen=True)
class Picture:
    """A PNG and the words beside it."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def draw(run: RunData) -> list[Picture]:
    """Every picture the run has numbers for."""
    with axes.style():
        pictures = [
            _curves(
                run,
                "l1_penalty",
                "L1 penalty, before λ",
                "Summed feature activations per token, each times the norm of its decoder row. It is shown before "
                "the multiplication with λ, so the members can be compared.",
                "penalty per token",
            ),
            _curves(
                run,
                "l2_reconstruction_loss",
                "L2 reconstruction loss",
                "Squared error summed over the width of the activation, on the inputs as the dictionary sees them"
                f"{_scaled(run)}. Lower is better.",
                "squared error per token",
            ),
            _curves(
                run,
                "nonzero_proportion",
                "Nonzero proportion",
                f"Share of the {words.whole(run.features)} features that are active on a token. The dashed line is "
                f"the cap: {words.coefficient(run.max_active)} active features.",
                "share of features",
                cap=run.max_active / run.features,
            ),
            _curves(
                run,
                "nonzero_proportion",
                "Nonzero proportion, zoomed",
                "The same near the cap, on a linear scale that ends at twice the cap; an arrow marks a member that "
                "ends above.",
                "share of features",
                name="nonzero_proportion_zoom",
                cap=run.max_active / run.features,
                top=2 * run.max_active / run.features,
            ),
            _curves(
                run,
                "l0",
                "Active features",
                "How many features are active on a token (L0). The dashed line is the most that the choice allows.",
                "active features per token",
                cap=run.max_active,
            ),
            _curves(
                run,
                "explained_variance",
                "Explained variance",
                "Share of the activations' variance that the reconstruction keeps; 1 is perfect, and always "
                "predicting the mean scores 0. The first steps may lie below the picture.",
                "explained variance",
            ),
            _trade_off(run),
        ]
        shown = run.shown()
        if shown is not None:
            pictures.append(_whole_length(run, shown))
    return pictures


def _curves(
    run: RunData,
    column: str,
    title: str,
    caption: str,
    unit: str,
    *,
    name: str | None = None,
    cap: float = float("nan"),
    top: float = float("nan"),
) -> Picture:
    """One metric of all members over the sweep; with `top`, on a linear scale from 0 to there."""
    figure, panels = new_figure(len(run.groups()), title)
    palette = axes.colours([member.l1 for member in run.members])
    dashes = {l1: axes.DASHES[index % len(axes.DASHES)] for index, l1 in enumerate(sorted(palette))}
    last = max((member.sweep.last()["step"] for member in run.members if len(member.sweep)), default=1.0)
    for panel, group in zip(panels, run.groups(), strict=True):
        members = [member for member in run.members if member.group == group]
        for member in members:
            width = 2.3 if _is_chosen(run, member) else 1.6
            axes.curve(panel, member.sweep["step"], member.sweep[column], palette[member.l1], dashes[member.l1], width)
        values = np.concatenate([axes.smooth(member.sweep[column]) for member in members])
        if np.isfinite(top) and top > 0:
            panel.set_ylim(0, top)
        elif column == "explained_variance":
            _variance_scale(panel, members)
        else:
            axes.scale(panel, np.append(values, cap))
        axes.progress(panel, last, _tokens_per_step(members), panel is panels[0], panel is panels[-1])
        if np.isfinite(cap):
            axes.cap_line(panel, cap)
        panel.set_ylabel(unit)
        _name_panel(panel, group, run)
        ends: list[tuple[float, str, object, bool]] = [
            (
                _end(member.sweep[column]),
                f"λ {words.coefficient(member.l1)}",
                palette[member.l1],
                _is_chosen(run, member),
            )
            for member in members
        ]
        ends.append((cap, f"cap {words.coefficient(run.max_active)}", axes.CAP, False))
        axes.end_labels(panel, ends, _panel_height(panels))
    alt = f"Line chart: {title.lower()} over the sweep's steps. At the end: " + "; ".join(
        f"{_label(run, member)} {words.number(_end(member.sweep[column]))}" for member in run.members
    )
    return Picture(name or column, title, f"{caption} {_averaged(run)}", alt + ".", axes.png(figure))


def _trade_off(run: RunData) -> Picture:
    """Active features against explained variance, a point a member."""
    title = "The trade-off"
    figure, panels = new_figure(len(run.groups()), title)
    palette = axes.colours([member.l1 for member in run.members])
    ends = [(member, member.sweep.at(run.step)) for member in run.members]
    extended = [(member, member.extension.last()) for member in run.members if len(member.extension)]
    for panel, group in zip(panels, run.groups(), strict=True):
        for member, end in extended:
            if member.group == group:
                panel.plot(
                    end["l0"], end["explained_variance"], "D", color=palette[member.l1], markersize=7, clip_on=False
                )
        own = [(member, row) for member, row in ends if member.group == group]
        x = np.array([row["l0"] for _, row in own])
        y = np.array([row["explained_variance"] for _, row in own])
        later = [end for member, end in extended if member.group == group]
        axes.scale(panel, np.array([*x, *(end["l0"] for end in later), run.max_active]), "x")
        _room(panel, np.array([*y, *(end["explained_variance"] for end in later)]))
        known = np.isfinite(x) & np.isfinite(y)
        panel.plot(x[known], y[known], color="#c4c4c4", linewidth=1.0, zorder=1)
        for (member, _), left, up in zip(own, x, y, strict=True):
            if _is_chosen(run, member):
                panel.plot(left, up, "o", markersize=13, markerfacecolor="none", markeredgecolor=axes.CAP)
            panel.plot(left, up, "o", color=palette[member.l1], markersize=7, clip_on=False)
        if np.isfinite(run.max_active):
            panel.axvline(run.max_active, color=axes.CAP, linewidth=1.1, linestyle=(0, (2, 1.5)), zorder=0.5)
        panel.set_ylabel("explained variance")
        if panel is panels[-1]:
            panel.set_xlabel("active features per token")
        _name_panel(panel, group, run)
    for panel, group in zip(panels, run.groups(), strict=True):  # once nothing moves the axes any more
        points = [
            (row["l0"], row["explained_variance"], f"λ {words.coefficient(member.l1)}")
            for member, row in ends
            if member.group == group and np.isfinite([row["l0"], row["explained_variance"]]).all()
        ]
        points += [
            (end["l0"], end["explained_variance"], f"λ {words.coefficient(member.l1)}, extended")
            for member, end in extended
            if member.group == group and np.isfinite([end["l0"], end["explained_variance"]]).all()
        ]
        axes.point_labels(panel, points)
    caption = (
        f"Each point is a member at step {words.whole(run.step)}: up is a better reconstruction, left is sparser. The "
        f"dashed line is the cap of {words.coefficient(run.max_active)} active features"
        f"{', the ring the chosen member' if any(run.member(choice.member) for choice in run.choices) else ''}"
        f"{', the diamond where it came to when trained on' if extended else ''}. "
        f"{_averaged(run, lines=False)}"
    )
    alt = (
        "Scatter plot: active features against explained variance. "
        + "; ".join(
            f"{_label(run, member)}: {words.number(row['l0'])} active, {words.fixed(row['explained_variance'])}"
            for member, row in ends
        )
        + "".join(
            f"; {_label(run, member)}, extended to step {words.whole(end['step'])}: {words.number(end['l0'])} active, "
            f"{words.fixed(end['explained_variance'])}"
            for member, end in extended
        )
    )
    return Picture("trade_off", title, caption, alt + ".", axes.png(figure))


def _whole_length(run: RunData, member: Member) -> Picture:
    """Active features and reconstruction of one member from its first step to its last, with the prediction."""
    label = f"λ {words.coefficient(member.l1)}"
    title = f"{label} over its whole length"
    figure, panels = new_figure(2, title, height=2.4)
    colour = axes.colours([m.l1 for m in run.members])[member.l1]
    whole, dropped = member.whole(), member.dropped()
    choice = next((choice for choice in run.choices if choice.member == member.name), None)
    marks = _prediction(choice)
    last = max(np.nanmax(np.append(whole["step"], [np.nan, *marks[0]])), member.sweep.last()["step"])
    for panel, column in zip(panels, ("l0", "l2_reconstruction_loss"), strict=True):
        if len(member.extension) and len(dropped) > 1:
            panel.plot(dropped["step"], dropped[column], color=axes.GREY, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.curve(panel, whole["step"], whole[column], colour, "solid", 2.0)
        axes.progress(panel, float(last), _tokens_per_step([member]), panel is panels[0], panel is panels[-1])
    top, bottom = panels
    axes.scale(top, np.concatenate([axes.smooth(whole["l0"]), dropped["l0"], [run.max_active], marks[1]]), span=8)
    squared = "l2_reconstruction_loss"
    axes.scale(bottom, np.concatenate([axes.smooth(whole[squared]), dropped[squared]]), span=8)
    if np.isfinite(run.max_active):
        axes.cap_line(top, run.max_active, f"cap {words.coefficient(run.max_active)}")
    if np.isfinite(run.features) and run.features > 0:
        axes.right_scale(top, 1 / run.features, "share of features")
    top.set_ylabel("active features")
    bottom.set_ylabel("L2 loss")
    if choice is not None and (predicted := choice.forecast()):
        _draw_prediction(top, choice, predicted)
    caption = (
        f"The path that led to the last checkpoint of {_label(run, member)}: active features per token (left scale; "
        "right scale: the same as nonzero proportion), and squared error per token."
    )
    if len(member.extension):
        caption += f" The extension went on from step {words.whole(member.extended_from)} of the sweep"
        caption += "; the end of the sweep that it did not build on is dashed grey." if len(dropped) > 1 else "."
    if choice is not None and choice.forecast():
        caption += f" The dash in the grey bar is the prediction for step {words.whole(choice.predict_step)}"
        caption += " with its error band"
        caption += (
            ", the star what came true." if np.isfinite(choice.true_l0) else "; what comes true is not known yet."
        )
    end = whole.last()
    alt = (
        f"Two line charts over training steps for {_label(run, member)}; at step {words.whole(end['step'])} it has "
        f"{words.number(end['l0'])} active features and an L2 loss of {words.number(end['l2_reconstruction_loss'])}."
    )
    return Picture("whole_length", title, f"{caption} {_averaged(run)}", alt, axes.png(figure))


def _prediction(choice: Choice | None) -> tuple[list[float], list[float]]:
    """Steps and values that the picture must have room for."""
    chosen = choice.forecast() if choice else None
    if choice is None or chosen is None:
        return [], []
    return [choice.predict_step, choice.true_step], [chosen.predicted_l0, chosen.low, chosen.high, choice.true_l0]


def _draw_prediction(panel: Axes, choice: Choice, chosen: Candidate) -> None:
    then = choice.predict_step
    panel.vlines(then, chosen.low, chosen.high, color=axes.INK, alpha=0.3, lw=11, zorder=4, clip_on=False)
    panel.plot(then, chosen.predicted_l0, "_", color=axes.INK, ms=13, mew=1.6, zorder=4, clip_on=False)
    panel.plot(
        choice.true_step, choice.true_l0, "*", color=axes.CAP, ms=9, mec="white", mew=0.6, zorder=5, clip_on=False
    )
    axes.mark_step(panel, choice.at_step, "chosen here")


def new_figure(count: int, title: str, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with its title and `count` panels below each other."""
    each = height or (3.0 if count == 1 else 2.4)
    figure = Figure(figsize=(axes.WIDTH, each * count + 0.55), layout="constrained")
    figure.suptitle(title, x=0.015, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    return figure, [figure.add_subplot(count, 1, index + 1) for index in range(count)]


def _panel_height(panels: Sequence[Axes]) -> float:
    """Points, near enough to keep labels apart."""
    return 160.0 if len(panels) == 1 else 130.0


def _name_panel(panel: Axes, group: str, run: RunData) -> None:
    if len(run.groups()) > 1:
        short = group if len(group) <= 40 else f"{group[:18]}…{group[-18:]}"
        panel.set_title(short, loc="left", fontsize=10, color=axes.GREY, parse_math=False)


def _variance_scale(panel: Axes, members: Sequence[Member]) -> None:
    """All of the later course; the first fifth may dive below, and 0 is in sight once it is near."""
    later = [axes.smooth(member.sweep["explained_variance"])[len(member.sweep) // 5 :] for member in members]
    _room(panel, np.concatenate(later))
    bottom, _ = panel.get_ylim()
    if bottom < 0.35:
        bottom = min(max(bottom, -0.5), -0.03)
        panel.axhline(0, color=axes.GREY, linewidth=1.0, linestyle=(0, (2, 1.5)))
    panel.set_ylim(bottom, 1.0)


def _room(panel: Axes, values: Floats) -> None:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.12 * (high - low) or 0.05
    panel.set_ylim(low - room, min(high + room, 1.0) if high < 1 else high + room)


def _is_chosen(run: RunData, member: Member) -> bool:
    return run.chosen(member.name)


def _label(run: RunData, member: Member) -> str:
    return f"λ {words.coefficient(member.l1)}" + (f" on {member.group}" if len(run.groups()) > 1 else "")


def _end(values: Floats) -> float:
    """The last known value of the line as it is drawn."""
    known = axes.smooth(values)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else float("nan")


def _tokens_per_step(members: Sequence[Member]) -> float:
    last = members[0].whole().last()
    return last["tokens"] / last["step"] if last["step"] > 0 else float("nan")


def _scaled(run: RunData) -> str:
    scaled = run.section("recipe", "sae").get("scaling") == "dataset"
    return " (scaled by one number so that their mean square norm is their width)" if scaled else " (not scaled)"


def _averaged(run: RunData, lines: bool = True) -> str:
    counts = np.concatenate(
        [rows["over_tokens"] for member in run.members for rows in (member.sweep, member.extension)]
    )
    counts = counts[np.isfinite(counts)]
    if not len(counts):
        return ""
    text = f"Means over {words.whole(float(np.median(counts)))} tokens of the training stream"
    smoothed = lines and max(len(member.sweep) for member in run.members) >= 2 * axes.SMOOTH
    return text + ("; bold lines are smoothed, faint ones are not." if smoothed else ".")
