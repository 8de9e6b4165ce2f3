"""The norms of the activations that a run trained on, and the top 1 %: `norms.json` of a run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from unmix.errors import UserError
from unmix.report import axes, words
from unmix.report.data import Floats
from unmix.report.picture import Picture, new_figure

LONGEST_TEXT = 40  # characters of a token that are shown
HEADROOM = 0.2  # above a share of 1, of the height below it; for words
ROOMY = 0.8  # across the panel: what begins further right has no room for words beside its line

Row = dict[str, Any]


@dataclass(frozen=True)
class HookNorms:
    """What the page says of one hook; a number that could not be made is NaN."""

    hook: str
    mean: float
    median: float
    top_count: float
    top_from: float
    share_of_square: float
    sinks: list[str]
    places: list[tuple[str, Row]]
    """Places, then positions from the second on."""
    tokens: list[tuple[str, Row]]


@dataclass(frozen=True)
class Section:
    """What the page says of the norms."""

    tokens: float
    split: str
    mask: str
    hooks: list[HookNorms]
    picture: Picture


def read_norms(folder: Path) -> Row | None:
    """The norms of a run; none if they were not kept. Raises `UserError` if the file is damaged."""
    path = folder / "norms.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; remove it to have a report without norms") from None
    if not isinstance(found, dict) or not isinstance(found.get("hooks"), dict):
        raise UserError(f"{path} holds no norms; remove it to have a report without them")
    return found


def section(found: Row, hooks: list[str]) -> Section | None:
    """The hooks of the run that the file speaks of; none if there is no such hook."""
    known = [hook for hook in hooks if hook in found["hooks"]]
    if not known:
        return None
    with axes.style():
        picture = _picture(found, known)
    said = [_hook(hook, found["hooks"][hook]) for hook in known]
    return Section(found["tokens"], str(found["split"]), str(found["mask"]), said, picture)


def shown(text: str) -> str:
    """A token in quotes, white space and what does not print as escapes, a long one cut."""
    said = repr(text)
    return said if len(said) <= LONGEST_TEXT else f"{said[: LONGEST_TEXT - 1]}…"


def _hook(hook: str, row: Row) -> HookNorms:
    places = [(name, _known(place)) for name, place in row["places"].items()]
    places += [(_range(place), _known(place)) for place in row["positions"] if place["first"] > 0]
    return HookNorms(
        hook=hook,
        mean=row["mean_norm"],
        median=row["quantiles"]["0.5"],
        top_count=row["top_count"],
        top_from=row["top_from"],
        share_of_square=_float(row["share_of_square_in_top"]),
        sinks=[str(sentence) for sentence in row["sinks"]],
        places=places,
        tokens=[(shown(str(token["token"])), _known(token)) for token in row["top_tokens"]],
    )


def _picture(found: Row, hooks: list[str]) -> Picture:
    title = "Norms of the activations"
    figure, panels = new_figure(len(hooks), title, height=2.8 if len(hooks) == 1 else 1.9)
    edges = np.array(found["edges"])
    for panel, hook in zip(panels, hooks, strict=True):
        _panel(panel, found["hooks"][hook], edges, found["tokens"])
        if len(hooks) > 1:
            panel.set_title(hook, loc="left", fontsize=9.5, color=axes.GREY, parse_math=False)
        panel.set_xlabel("‖x‖" if panel is panels[-1] else "")
    caption = (
        "Tokens by the norm of their activation, bins equal on a log scale, and the share of tokens in each, also on "
        "a log scale, so that a handful of high-norm tokens can be seen. Tinted: the top 1 %. "
        f"Over {words.whole(found['tokens'])} tokens of the {found['split']} split; mask: {found['mask']}."
    )
    alt = "Histogram of the norms. " + "; ".join(
        f"{hook}: median {words.number(row['quantiles']['0.5'])}, the top 1 % from {words.number(row['top_from'])} "
        f"to {words.number(row['max'])}"
        for hook, row in ((hook, found["hooks"][hook]) for hook in hooks)
    )
    return Picture("hook_norms", title, caption, alt + ".", axes.png(figure))


def _panel(panel: Axes, row: Row, edges: Floats, tokens: float) -> None:
    share = np.array(row["proportions"])
    floor = 0.5 / tokens
    held = np.flatnonzero(share)
    low, high = edges[held[0]], edges[held[-1] + 1]
    axes.scale(panel, np.array([low, high]), "x", span=8)
    if panel.get_xscale() == "linear":
        panel.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    panel.set_yscale("log")
    panel.set_ylim(floor, floor**-HEADROOM)
    decades = np.arange(0, math.log10(floor), -max(1, round(-math.log10(floor) / 5)))
    panel.set_yticks(10.0**decades, [f"{100 * 10.0**power:g} %" for power in decades])
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_ylabel("share of tokens")
    panel.stairs(np.maximum(share, floor), edges, baseline=floor, fill=True, color=axes.colours([0.0])[0.0])
    panel.axvspan(row["top_from"], panel.get_xlim()[1], color=axes.CAP, alpha=0.13, linewidth=0, zorder=0)
    panel.axvline(row["top_from"], color=axes.CAP, linewidth=1.0)
    to_axes = panel.transData + panel.transAxes.inverted()
    begins = float(to_axes.transform((row["top_from"], 1.0))[0])
    _say(panel, begins if begins > ROOMY else 1.0, "top 1 %", axes.CAP, "right")
    median = row["quantiles"]["0.5"]
    panel.axvline(median, color=axes.INK, linewidth=1.0, linestyle=(0, (2, 1.5)))
    place = float(to_axes.transform((median, 1.0))[0])
    _say(panel, place, f"median {words.number(median)}", axes.INK, "left" if place < 0.45 else "right")


def _say(panel: Axes, place: float, text: str, colour: str, side: Literal["left", "right"]) -> None:
    """A word in the room above the bars, with its `side` at `place` across the panel."""
    shift = (4 if side == "left" else -4, -3)
    panel.annotate(
        text,
        (place, 1.0),
        xycoords="axes fraction",
        xytext=shift,
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=9.5,
        color=colour,
    )


def _range(row: Row) -> str:
    return f"position {row['first']}" if row["first"] == row["last"] else f"positions {row['first']} to {row['last']}"


def _known(row: Row) -> Row:
    return {name: _float(value) for name, value in row.items() if name != "token"}


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
