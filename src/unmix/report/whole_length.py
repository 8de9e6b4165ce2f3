"""One member from its first step to its last, through its extension, with what was predicted and what came true."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from unmix.report import axes, words
from unmix.report.data import Candidate, Choice, Member, RunData
from unmix.report.panels import colour
from unmix.report.picture import Picture, averaged, name_panel, named, new_figure, tokens_per_step


def whole_length(run: RunData, member: Member, name: str) -> Picture:
    """Active features and reconstruction of one member from its first step to its last, with the prediction."""
    title = f"{member.request.label} over its whole length"
    figure, panels = new_figure(2, title, height=2.4)
    whole, dropped = member.whole(), member.dropped()
    choice = next((choice for choice in run.choices if choice.member == member.name), None)
    marks = _prediction(choice)
    last = max(np.nanmax(np.append(whole["step"], [np.nan, *marks[0]])), member.sweep.last()["step"])
    for panel, column in zip(panels, ("l0", "l2_reconstruction_loss"), strict=True):
        if len(member.extension) and len(dropped) > 1:
            panel.plot(dropped["step"], dropped[column], color=axes.GREY, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.curve(panel, whole["step"], whole[column], colour(run, member), "solid", 2.0)
        axes.progress(panel, float(last), tokens_per_step([member]), panel is panels[0], panel is panels[-1])
    top, bottom = panels
    if len(run.groups()) > 1:
        name_panel(top, member.group)
    axes.scale(top, np.concatenate([axes.smooth(whole["l0"]), dropped["l0"], [run.max_active], marks[1]]), span=8)
    squared = "l2_reconstruction_loss"
    axes.scale(bottom, np.concatenate([axes.smooth(whole[squared]), dropped[squared]]), span=8)
    if np.isfinite(run.max_active):
        axes.cap_line(top, run.max_active, f"cap {words.coefficient(run.max_active)}")
    if member.request.kind == "l0":
        axes.asked_line(top, member.request.value)
    if (features := run.features_of(member.variant)) > 0:
        axes.right_scale(top, 1 / features, "share of features")
    top.set_ylabel("active features")
    bottom.set_ylabel("L2 loss")
    if choice is not None and (predicted := choice.forecast()):
        _draw_prediction(top, choice, predicted)
    caption = (
        f"The path that led to the last checkpoint of {named(run, member)}: active features per token (left scale; "
        "right scale: the same as nonzero proportion), and squared error per token."
    )
    if len(member.extension):
        caption += f" The extension continued from step {words.whole(member.extended_from)} of the sweep"
        caption += "; the end of the sweep that it did not build on is dashed grey." if len(dropped) > 1 else "."
    if choice is not None and choice.forecast():
        caption += f" The dash in the grey bar is the prediction for step {words.whole(choice.predict_step)}"
        caption += " with its error band"
        caption += (
            ", the star what was measured there." if np.isfinite(choice.true_l0) else "; it has not been measured yet."
        )
    end = whole.last()
    alt = (
        f"Two line charts over training steps for {named(run, member)}; at step {words.whole(end['step'])} it has "
        f"{words.number(end['l0'])} active features and an L2 loss of {words.number(end['l2_reconstruction_loss'])}."
    )
    return Picture(name, title, f"{caption} {averaged(run)}", alt, axes.png(figure))


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
