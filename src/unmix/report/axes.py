"""What every picture shares: looks, scales, smoothing, colours, labels at the ends of the lines."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unmix.report import words
from unmix.report.data import Floats
from unmix.runlog import Request

DPI = 180
SMOOTH = 50
WIDTH = 4.8  # inches: 10 pt stays legible when a phone shows the picture 330 px wide
INK, GREY = "#1b1b1b", "#767676"
CAP = "#d55e00"  # Okabe and Ito's vermilion: apart from viridis for every kind of colour vision
DASHES = ("solid", (0, (5, 1.4)), (0, (5, 1.4, 1, 1.4)), (0, (1.3, 1.1)))
KINDS = (
    ("#0072b2", "o"), ("#009e73", "s"), ("#cc79a7", "^"), ("#1b1b1b", "v"), ("#56b4e9", "P"), ("#e69f00", "X"),
    ("#8c564b", "<"),
)  # fmt: skip
"""Of variants, which have no order: colours of Okabe and Ito but for the cap's, and a brown; the marks of points."""

Ordered = TypeVar("Ordered", float, Request)

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """Looks for the pictures made inside; matplotlib's settings are as before afterwards."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a module path may use any script
        yield


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def colours(values: Sequence[Ordered]) -> dict[Ordered, tuple[float, float, float]]:
    """Viridis in their order, without its yellow end that paper and white cards swallow."""
    ordered = sorted(set(values))
    places = np.linspace(0.0, 0.84, len(ordered)) if len(ordered) > 1 else [0.25]
    return {
        value: matplotlib.colormaps["viridis"](float(place))[:3] for value, place in zip(ordered, places, strict=True)
    }


def kinds(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a mark for each name."""
    return {name: KINDS[index % len(KINDS)] for index, name in enumerate(dict.fromkeys(names))}


def smooth(values: Floats) -> Floats:
    """Mean over a `SMOOTH`th of the rows, centred but for the last ones; NaN is left out.

    The window shrinks at the start, where curves are steep, and is cut off at the end, where they are flat and noisy.
    """
    n = len(values)
    reach = n // (2 * SMOOTH)
    if reach < 1:
        return values
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    here = np.arange(n)
    half = np.minimum(reach, here)
    first, after = here - half, np.minimum(here + half + 1, n)
    count = counts[after] - counts[first]
    return np.where(known & (count > 0), (sums[after] - sums[first]) / np.maximum(count, 1), np.nan)


def curve(ax: Axes, x: Floats, y: Floats, colour: object, dashes: object, width: float) -> None:
    """A smoothed line over the raw one, with a dot at its last known value."""
    if not np.isfinite(y).any():
        return
    soft = smooth(y)
    if soft is not y:
        ax.plot(x, y, color=colour, linewidth=0.6, alpha=0.25)
    ax.plot(x, soft, color=colour, linestyle=dashes, linewidth=width, solid_capstyle="round")
    last = np.flatnonzero(np.isfinite(soft))[-1]
    ax.plot(x[last], soft[last], "o", color=colour, markersize=3.5, clip_on=True)


def scale(ax: Axes, values: Floats, axis: str = "y", span: float = 30.0) -> None:
    """Logarithmic if the values span more than a factor of `span`; with zeros among them, linear below the smallest."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    setter = ax.set_yscale if axis == "y" else ax.set_xscale
    ruler = ax.yaxis if axis == "y" else ax.xaxis
    limits = ax.set_ylim if axis == "y" else ax.set_xlim
    if (known < 0).any() or not len(positive) or positive.max() < span * positive.min():
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        limits(low - room if low < 0 or low > 0.5 * high else 0.0, high + room)
        ruler.set_major_formatter(FuncFormatter(lambda value, _: words.tick(round(value, 12))))
        return
    low, high = float(positive.min()), float(positive.max())
    if (known == 0).any():
        setter("symlog", linthresh=low, linscale=0.3)
        limits(0.0, high * 1.4)
        decades = 10.0 ** np.arange(np.ceil(np.log10(low)), np.log10(high * 1.4) + 1e-9)
        ruler.set_ticks([0.0, *decades])
    else:
        setter("log")
        limits(low / 1.3, high * 1.3)
        subs = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
        ruler.set_major_locator(LogLocator(subs=subs))
    ruler.set_minor_locator(NullLocator())
    ruler.set_major_formatter(FuncFormatter(lambda value, _: words.tick(value)))


def progress(ax: Axes, last_step: float, tokens_per_step: float, first: bool, final: bool) -> None:
    """Steps below the lowest panel, tokens above the highest."""
    ax.set_xlim(0, last_step * 1.012 or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(value)))
    if final:
        ax.set_xlabel("training step")
    else:
        ax.tick_params(labelbottom=False)
    if first and np.isfinite(tokens_per_step) and tokens_per_step > 0:
        top = ax.secondary_xaxis("top", functions=(_times(tokens_per_step), _times(1 / tokens_per_step)))
        top.xaxis.set_major_locator(MaxNLocator(5))
        top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(value)))
        top.set_xlabel("tokens", color=GREY, fontsize=9.5)
        top.tick_params(labelcolor=GREY, labelsize=9, length=2.5)
        top.spines["top"].set_visible(False)


def cap_line(ax: Axes, value: float, text: str = "") -> None:
    """The most active features that the choice allows; `text` is written on it."""
    ax.axhline(value, color=CAP, linewidth=1.1, linestyle=(0, (2, 1.5)), zorder=1.5)
    ax.annotate(
        text,
        (0.5, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2.5),
        textcoords="offset points",
        color=CAP,
        fontsize=9.5,
        ha="center",
        va="bottom",
    )


def asked_line(ax: Axes, value: float) -> None:
    """An L0 that was asked for."""
    ax.axhline(value, color=GREY, linewidth=0.7, zorder=0.9)


def mark_step(ax: Axes, step: float, text: str) -> None:
    ax.axvline(step, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    ax.annotate(
        text,
        (step, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=9.5,
        color=GREY,
        va="top",
    )


def end_labels(ax: Axes, ends: Sequence[tuple[float, str, object, bool]], height_pt: float) -> None:
    """Labels right of the axes at the height of (y, text, colour, bold), pushed apart where they would touch."""
    to_axes = ax.transData + ax.transAxes.inverted()
    at = []
    for y, text, colour, bold in ends:
        if not np.isfinite(y):
            continue
        place = float(to_axes.transform((ax.get_xlim()[1], y))[1])
        arrow = " ↑" if place > 1 else " ↓" if place < 0 else ""
        at.append((place, text + arrow, colour, bold))
    at.sort(key=lambda item: item[0])
    places = [min(max(item[0], 0.0), 1.0) for item in at]
    gap = 11.5 / height_pt
    for (_, text, colour, bold), true, y in zip(at, places, spread(places, gap), strict=True):
        ax.plot([1.005, 1.035], [true, y], color=colour, linewidth=1.6, transform=ax.transAxes, clip_on=False)
        ax.text(
            1.045,
            y,
            text,
            transform=ax.transAxes,
            va="center",
            fontsize=9.5,
            fontweight="bold" if bold else "normal",
            parse_math=False,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1], in rising order, at least `gap` apart and as close to `wanted` (rising) as that allows.

    Groups that touch are merged and centred on the mean of what their members want (pooling adjacent violators).
    """
    groups: list[list[float]] = []  # [sum of (wanted - own offset), size]
    for index, place in enumerate(wanted):
        groups.append([place - index * gap, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    room = max(1.0 - (len(wanted) - 1) * gap, 0.0)
    levels = [min(max(total / size, 0.0), room) for total, size in groups for _ in range(int(size))]
    return [level + index * gap for index, level in enumerate(levels)]


def right_scale(ax: Axes, factor: float, label: str) -> None:
    """The left scale times `factor`, at the same places."""
    right = ax.secondary_yaxis("right", functions=(_times(factor), _times(1 / factor)))
    right.set_ylabel(label, color=GREY, fontsize=9.5)
    right.tick_params(labelcolor=GREY, labelsize=9, length=2.5)
    if ax.get_yscale() == "log":
        right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        right.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.tick(round(value, 12))))
    right.spines["right"].set_visible(False)


def point_labels(ax: Axes, named: Sequence[tuple[float, float, str]]) -> None:
    """The text of each (x, y, text) beside its point, on the first side where it meets no other point, text or line; if
    there is none, no other point or text."""
    figure = ax.get_figure(root=True)
    if figure is None or not named:
        return
    figure.draw_without_rendering()  # places the axes, so that data turns into points of the page
    to_pt = 72 / figure.dpi
    points = ax.transData.transform([(x, y) for x, y, _ in named]) * to_pt
    box = ax.get_window_extent()
    left, right, bottom = box.x0 * to_pt, box.x1 * to_pt, box.y0 * to_pt
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in points]
    lines = [(px - 2, py - 2, px + 2, py + 2) for px, py in _along_lines(ax, to_pt)]
    for (px, py), (x, y, text) in zip(points, named, strict=True):
        width, height = 6.2 * len(text), 11.0
        sides: list[tuple[float, float]] = [(5, -14), (-5 - width, 4), (8, -5), (-8 - width, -5)]
        sides += [(-width / 2, 8), (-width / 2, -18), (6, 6), (-6 - width, -16)]
        sides += [(-width / 2, 14), (-width / 2, -24)]
        sides += [(8, 16), (8, -28), (-8 - width, 16), (-8 - width, -28)]
        boxes = [(px + dx, py + dy, px + dx + width, py + dy + height) for dx, dy in sides]
        inside = [at for at, own in enumerate(boxes) if own[0] > left and own[2] < right and own[1] > bottom]
        free = [at for at in inside if not any(_meet(boxes[at], other) for other in taken)]
        clear = [at for at in free if not any(_meet(boxes[at], other) for other in lines)]
        at = next(iter(clear or free), len(sides) - 1)
        taken.append(boxes[at])
        ax.annotate(text, (x, y), xytext=sides[at], textcoords="offset points", fontsize=9.5, parse_math=False)


def _along_lines(ax: Axes, to_pt: float, step: float = 3.0) -> Iterator[tuple[float, float]]:
    """Points of the page on the lines and error bars in the axes, so many apart."""
    drawn = [line for line in ax.get_lines() if line.get_linestyle() not in ("None", "", " ")]
    paths = [(line.get_path(), line.get_transform()) for line in drawn]
    bars = [bar for bar in ax.collections if isinstance(bar, LineCollection)]
    paths += [(path, bar.get_transform()) for bar in bars for path in bar.get_paths()]
    for path, transform in paths:
        places = np.asarray(transform.transform_path(path).vertices) * to_pt
        for (x0, y0), (x1, y1) in itertools.pairwise(places[np.isfinite(places).all(1)]):
            for share in np.linspace(0, 1, max(2, math.ceil(math.hypot(x1 - x0, y1 - y0) / step))):
                yield x0 + share * (x1 - x0), y0 + share * (y1 - y0)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: np.asarray(values) * factor


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
