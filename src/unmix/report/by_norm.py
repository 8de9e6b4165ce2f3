"""What the dictionaries do with tokens of low and of high norm: `by_norm` of `evaluation.json`, drawn and tabled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unmix.report import axes, words
from unmix.report.data import Floats
from unmix.report.heldout import of_split, within
from unmix.report.picture import Picture, new_figure

MOST = 6  # dictionaries in one picture
SHORT = "#0072b2"  # Okabe and Ito's blue, beside their vermilion
GROUPS = {"bottom 1 %": SHORT, "the rest": axes.GREY, "top 1 %": axes.CAP}
OUTSIDE = 0.01  # of a group may lie left of a histogram
_HAT = {"x": "x̂", "y": "ŷ"}
FLOOR = -0.5  # of explained variance in the picture

Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """What the page says by norm of one hook."""

    hook: str
    of_targets: bool
    """Whether x is y, the target of a transcoder, in all of it."""
    over: str
    """How many tokens, and of which split."""
    mask: str
    table: list[tuple[str, list[tuple[str, Row]]]]
    """(dictionary, its three groups), the least sparse first; a number that could not be made is NaN."""
    pictures: list[Picture]


def sections(evaluation: dict[str, Any]) -> list[Section]:
    """One for every hook whose evaluation looked by norm."""
    found = []
    with axes.style():
        for number, result in enumerate(evaluation["hooks"]):
            rows = _ordered(result)
            if not rows:
                continue
            suffix = f"_{number}" if len(evaluation["hooks"]) > 1 else ""
            first = rows[0][1]["by_norm"]
            table = [
                (name, [(group, _known(row["by_norm"]["groups"][group])) for group in GROUPS]) for name, row in rows
            ]
            rows = _ordered(within(result))
            over, mask = f"{words.whole(first['tokens'])} {of_split(result)}", str(first["mask"])
            end = f"Over {over}; mask: {mask}."
            targets = "target_width" in result
            pictures = [
                _deciles(rows, suffix, end, "y" if targets else "x"),
                *(_histogram(rows, of, suffix, end) for of in ("l0", "l1")),
            ]
            found.append(Section(str(result["hook"]), targets, over, mask, table, pictures))
    return found


def spread_out(count: int) -> list[int]:
    """At most `MOST` of `count` places, the first and the last among them, evenly apart."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST)).tolist()})


def _ordered(result: Row) -> list[tuple[str, Row]]:
    rows = [(name, row) for name, row in result["saes"].items() if row.get("by_norm")]
    return sorted(rows, key=lambda item: -item[1]["l0"])


def _drawn(rows: list[tuple[str, Row]]) -> list[tuple[str, Row, tuple[float, float, float]]]:
    """(name, row, colour) of those that have a panel, the colours being those of the other held-out pictures."""
    palette = axes.colours(list(range(len(rows))))
    return [(*rows[at], palette[at]) for at in spread_out(len(rows))]


def _deciles(rows: list[tuple[str, Row]], suffix: str, end: str, x: str = "x") -> Picture:
    """Left, who has the loss; right, how well it went: a row of panels a dictionary. `end`: of the caption; `x`: what
    is given back."""
    title = "By norm: where the loss is spent"
    drawn = _drawn(rows)
    figure = Figure(figsize=(axes.WIDTH, 1.05 * len(drawn) + 1.5), layout="constrained")
    figure.suptitle(title, x=0.015, ha="left", fontsize=12, fontweight="bold")
    grid = figure.subplots(len(drawn), 2, squeeze=False, width_ratios=[1.25, 1])
    shares = [_column(row, "share_of_loss") for _, row, _ in drawn]
    highest = max([0.1, *(float(s[np.isfinite(s)].max()) for s in shares if np.isfinite(s).any())])
    quality = np.concatenate(
        [_column(row, name) for _, row, _ in drawn for name in ("explained_variance", "norm_ratio")]
    )
    for index, (name, row, colour) in enumerate(drawn):
        left, right = grid[index]
        _loss_bars(left, row, colour)
        left.set_ylim(0, 1.3 * highest)
        left.annotate(_short(name), (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=9.5, parse_math=False)
        _quality_lines(right, row, colour)
        _quality_scale(right, quality)
        for panel in (left, right):
            _decile_ruler(panel, index == len(drawn) - 1)
    grid[0][0].set_title("share of the squared error", loc="left", fontsize=9.5, color=axes.GREY)
    grid[0][1].set_title("how well it is given back", loc="left", fontsize=9.5, color=axes.GREY)
    grid[-1][0].set_xlabel(f"tenths of the tokens by ‖{x}‖")
    grid[-1][1].set_xlabel("low to high norm")
    ratio = f"‖{_HAT[x]}‖ / ‖{x}‖"
    handles = [
        Patch(color=axes.CAP, label="of the top 1 % by norm"),
        Line2D([], [], color=axes.INK, marker="o", markersize=3.5, label="explained variance"),
        Line2D([], [], color=axes.GREY, linestyle=(0, (2, 1.5)), label="an even share"),
        Line2D([], [], color=axes.GREY, marker="o", markersize=3.5, markerfacecolor="white", label=ratio),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    caption = (
        f"Tokens in order of ‖{x}‖, a tenth each. Left: the share of the summed squared error that each tenth has; "
        "if high-norm tokens cost no more than others, every bar would end at 10 %. Right: explained variance (about "
        "one mean for all tenths) and the norm of the reconstruction. "
        f"{_some(rows)}{end}"
    )
    alt = "Bar and line charts by tenths of the norm. " + "; ".join(
        f"{name}: the top tenth by norm has {words.percent(share[-1])} of the squared error, the top 1 % "
        f"{words.percent(_top(row, 'share_of_loss'))}"
        for (name, row, _), share in zip(drawn, shares, strict=True)
    )
    return Picture(f"by_norm_deciles{suffix}", title, caption, alt + ".", axes.png(figure))


def _loss_bars(panel: Axes, row: Row, colour: object) -> None:
    tenths, share = np.arange(1, 11), np.nan_to_num(_column(row, "share_of_loss"))
    panel.bar(tenths, share, width=0.78, color=colour)
    top = _top(row, "share_of_loss")
    if np.isfinite(top):
        panel.bar(10, top, width=0.78, color=axes.CAP)
    panel.axhline(0.1, color=axes.GREY, linewidth=1.0, linestyle=(0, (2, 1.5)))
    panel.grid(visible=False, axis="x")
    panel.yaxis.set_major_locator(MaxNLocator(3))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _quality_lines(panel: Axes, row: Row, colour: object) -> None:
    tenths = np.arange(1, 11)
    panel.plot(tenths, _column(row, "norm_ratio"), "o-", color=axes.GREY, markersize=3.5, mfc="white", linewidth=1.0)
    panel.plot(tenths, _column(row, "explained_variance"), "o-", color=colour, markersize=3.5, linewidth=1.6)


def _quality_scale(panel: Axes, values: Floats) -> None:
    """The same for every dictionary; explained variance may dive below the picture."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.1 * (max(high, 1.0) - max(low, FLOOR)) or 0.05
    panel.set_ylim(max(low - room, FLOOR), max(high, 1.0) + room)
    panel.yaxis.set_major_locator(MaxNLocator(3))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(round(value, 12))))


def _decile_ruler(panel: Axes, final: bool) -> None:
    panel.set_xlim(0.4, 10.6)
    panel.set_xticks([1, 4, 7, 10])
    panel.tick_params(labelsize=9, labelbottom=final)


def _histogram(rows: list[tuple[str, Row]], column: str, suffix: str, end: str) -> Picture:
    """L0 or L1 of the three groups, a panel a dictionary; the area under each line is the same."""
    what = {"l0": "Active features", "l1": "L1"}[column]
    title = f"By norm: {what if column == 'l1' else what.lower()} per token"
    drawn = _drawn(rows)
    figure, panels = new_figure(len(drawn), title, height=0.95 if len(drawn) > 1 else 2.2)
    low, high = _reach([row["by_norm"] for _, row, _ in drawn], column)
    for panel, (name, row, _) in zip(panels, drawn, strict=True):
        highest = 0.0
        for group, colour in GROUPS.items():
            height, edges = _density(row["by_norm"], group, column)
            rest = group == "the rest"
            panel.stairs(*_trimmed(height, edges), color=colour, fill=rest, alpha=0.35 if rest else 1.0, linewidth=1.5)
            highest = max(highest, float(height.max()))
        panel.set_ylim(0, 1.08 * highest or 1.0)
        panel.set_yticks([])
        axes.scale(panel, np.array([low, high]), "x", span=6)
        panel.tick_params(labelbottom=panel is panels[-1], labelsize=9)
        panel.set_title(_short(name, 28), loc="left", fontsize=9.5, parse_math=False)
        panel.set_title(_silent(row["by_norm"], column), loc="right", fontsize=9, color=axes.GREY)
    unit = {"l0": "active features of a token (L0)", "l1": "Σ f ‖W_dec‖ of a token (L1)"}[column]
    panels[-1].set_xlabel(unit, parse_math=False)
    handles: list[Any] = [
        Patch(color=colour, alpha=0.35, label=group)
        if group == "the rest"
        else Line2D([], [], color=colour, linewidth=1.5, label=group)
        for group, colour in GROUPS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    caption = (
        f"{what} per token, {'Σ f ‖W_dec‖, ' if column == 'l1' else ''}for the 1 % of the tokens with the lowest "
        "norms, the 1 % with the highest, and the rest. The area under each is its share of the group. Tokens without "
        "an active feature have no place on a log scale; where there are any, their share of the three groups stands "
        "right of the name. "
        "Up to 1 % of a group may lie left of the picture. "
        f"{_some(rows)}{end}"
    )
    alt = f"Histograms of {what.lower() if column == 'l0' else what} by norm; means of the three groups: " + "; ".join(
        f"{name} " + ", ".join(words.number(_of(row, group, column)) for group in GROUPS) for name, row, _ in drawn
    )
    return Picture(f"by_norm_{column}{suffix}", title, caption, alt + ".", axes.png(figure))


def _density(by_norm: Row, group: str, column: str) -> tuple[Floats, Floats]:
    """Share of the group per factor of ten, and the edges, without the bin of the zeros; whole numbers sit mid-bin."""
    edges = np.array(by_norm[f"{column}_edges"][1:], dtype=np.float64) - (0.5 if column == "l0" else 0.0)
    share = np.array(by_norm["groups"][group][f"{column}_proportions"][1:], dtype=np.float64)
    if not len(share):
        return np.zeros(1), np.array([1.0, 2.0])
    return share / np.diff(np.log10(edges)), edges


def _trimmed(height: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Without the empty bins before the first token and after the last."""
    held = np.flatnonzero(height)
    return (height[held[0] : held[-1] + 1], edges[held[0] : held[-1] + 2]) if len(held) else (height[:1], edges[:2])


def _reach(found: list[Row], column: str) -> tuple[float, float]:
    """From where to where the histograms go, but for a tail on the left."""
    lows, highs = [], []
    for by_norm in found:
        for group in GROUPS:
            edges = np.array(by_norm[f"{column}_edges"][1:], dtype=np.float64)
            share = np.array(by_norm["groups"][group][f"{column}_proportions"][1:], dtype=np.float64)
            if share.sum() > OUTSIDE:
                lows.append(edges[np.searchsorted(share.cumsum(), OUTSIDE, side="right")])
                highs.append(edges[np.flatnonzero(share)[-1] + 1])
    return (float(min(lows)), float(max(highs))) if lows else (1.0, 10.0)


def _silent(by_norm: Row, column: str) -> str:
    shares = [by_norm["groups"][group][f"{column}_proportions"][0] for group in GROUPS]
    return f"none active: {', '.join(f'{100 * share:.0f}' for share in shares)} %" if max(shares) >= 0.005 else ""


def _some(rows: list[tuple[str, Row]]) -> str:
    return f"{MOST} of {len(rows)} dictionaries, spread over L0. " if len(rows) > MOST else ""


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _column(row: Row, name: str) -> Floats:
    return np.array([_float(decile[name]) for decile in row["by_norm"]["deciles"]])


def _top(row: Row, name: str) -> float:
    return _of(row, "top 1 %", name)


def _of(row: Row, group: str, name: str) -> float:
    return _float(row["by_norm"]["groups"][group][name])


def _known(row: Row) -> Row:
    return {name: _float(value) for name, value in row.items() if not isinstance(value, list)}


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
