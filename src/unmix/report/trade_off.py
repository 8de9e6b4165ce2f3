"""Active features against explained variance: a point a member, a line through those of one variant."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from unmix.report import axes, words
from unmix.report.data import Member, RunData
from unmix.report.picture import Picture, averaged, name_panel, named, new_figure, room

MOST_LABELS = 12  # points of a panel; the names of more lie on each other
MISSED = 1.25  # an L0 so many times what was asked for, or less than one in so many, is named

Row = dict[str, float]


def trade_off(run: RunData) -> Picture:
    """A panel a hook; where there are variants, each has its colour and its mark."""
    title = "The trade-off"
    several = len(run.variants()) > 1
    figure, panels = new_figure(len(run.hooks()), title, height=3.4 if several else None)
    ends = [(member, member.sweep.at(run.step)) for member in run.members]
    extended = [(member, member.extension.last()) for member in run.extended()]
    for panel, hook in zip(panels, run.hooks(), strict=True):
        _draw(panel, run, [p for p in ends if p[0].hook == hook], [p for p in extended if p[0].hook == hook])
        panel.set_ylabel("explained variance")
        if panel is panels[-1]:
            panel.set_xlabel("active features per token")
        if len(run.hooks()) > 1:
            name_panel(panel, hook)
    if several:
        called = [run.called(variant) for variant in run.variants()]
        lines = {str(line.get_label()): line for panel in panels for line in panel.lines if line.get_label() in called}
        figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    for panel, hook in zip(panels, run.hooks(), strict=True):  # once nothing moves the axes any more
        points = [(row, _label(run, member, row)) for member, row in ends if member.hook == hook]
        points += [(row, f"{member.request.label}, extended") for member, row in extended if member.hook == hook]
        if not several or sum(bool(label) for _, label in points) <= MOST_LABELS:
            axes.point_labels(panel, [(r["l0"], r["explained_variance"], label) for r, label in points if _is_known(r)])
    return Picture("trade_off", title, _caption(run), _alt(run, ends, extended), axes.png(figure))


def _draw(panel: Axes, run: RunData, ends: list[tuple[Member, Row]], extended: list[tuple[Member, Row]]) -> None:
    looks, colours = axes.kinds(run.variants()), axes.colours(run.requests())
    several = len(looks) > 1
    shown = [row for _, row in [*ends, *extended]]
    axes.scale(panel, np.array([*(row["l0"] for row in shown), run.max_active]), "x")
    room(panel, np.array([row["explained_variance"] for row in shown]))
    for variant, (colour, mark) in looks.items():
        line = [row for member, row in ends if member.variant == variant and _is_known(row)]
        if not line:
            continue
        x, y = [row["l0"] for row in line], [row["explained_variance"] for row in line]
        if several:
            panel.plot(x, y, mark, linestyle="solid", color=colour, linewidth=1.2, markersize=6.5, clip_on=False,
                       label=run.called(variant))  # fmt: skip
        else:
            panel.plot(x, y, color="#c4c4c4", linewidth=1.0, zorder=1)
    for member, row in ends:
        at = row["l0"], row["explained_variance"]
        if run.chosen(member.name):
            panel.plot(*at, "o", markersize=13, markerfacecolor="none", markeredgecolor=axes.CAP)
        if not several:
            panel.plot(*at, "o", color=colours[member.request], markersize=7, clip_on=False)
    for member, row in extended:
        own = looks[member.variant][0] if several else colours[member.request]
        panel.plot(row["l0"], row["explained_variance"], "D", color=own, markersize=7, clip_on=False)
    if np.isfinite(run.max_active):
        panel.axvline(run.max_active, color=axes.CAP, linewidth=1.1, linestyle=(0, (2, 1.5)), zorder=0.5)
    for request in run.requests():
        if request.kind == "l0":
            panel.axvline(request.value, color=axes.GREY, linewidth=0.7, zorder=0.4)


def _label(run: RunData, member: Member, row: Row) -> str:
    """What a point is called; nothing where its place says it: near the L0 that it was asked for, of one of several."""
    request = member.request
    if request.kind == "l1" or len(run.variants()) == 1:
        return request.label
    missed = not 1 / MISSED < row["l0"] / request.value < MISSED
    return f"asked for {request.number}" if missed else ""


def _is_known(row: Row) -> bool:
    return bool(np.isfinite([row["l0"], row["explained_variance"]]).all())


def _caption(run: RunData) -> str:
    marks = {
        f"the dashed line is the cap of {words.coefficient(run.max_active)} active features": np.isfinite(
            run.max_active
        ),
        "thin lines are the L0 asked for": any(request.kind == "l0" for request in run.requests()),
        "the ring is the chosen member": any(run.member(choice.member) for choice in run.choices),
        "the diamond is where it came to when trained on": run.extended(),
    }
    said = f"Each point is a member at step {words.whole(run.step)}: up is a better reconstruction, left is sparser"
    return f"{'; '.join([said, *(mark for mark, there in marks.items() if there)])}. {averaged(run, lines=False)}"


def _alt(run: RunData, ends: list[tuple[Member, Row]], extended: list[tuple[Member, Row]]) -> str:
    points = [(named(run, member), row) for member, row in ends]
    points += [(f"{named(run, m)}, extended to step {words.whole(row['step'])}", row) for m, row in extended]
    said = [f"{name}: {words.number(r['l0'])} active, {words.fixed(r['explained_variance'])}" for name, r in points]
    return f"Scatter plot: active features against explained variance. {'; '.join(said)}."
