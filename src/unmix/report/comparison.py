"""Dictionaries of several folders, published and own, on one page: a table, and explained variance against L0."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.lines import Line2D

from unmix.report import axes, words
from unmix.report.picture import Picture, name_panel, new_figure, room
from unmix.runlog import write_whole

PAGE = "comparison.html"
MOST_LABELS = 12
Row = dict[str, Any]


def write_comparison(folder: Path, evaluation: dict[str, Any]) -> Path:
    """Writes `comparison.html` and `plots/pareto_N.png`, each whole or not at all, and returns the former's path."""
    with axes.style():
        pictures = [pareto(result, evaluation, number) for number, result in enumerate(evaluation["hooks"])]
    for picture in pictures:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        write_whole(folder / "plots" / f"{picture.name}.png", picture.png)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=words.number, whole=words.whole, fixed=words.fixed, percent=words.percent, data_uri=_data_uri
    )
    template = resources.files("unmix.report").joinpath("comparison.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        evaluation=evaluation,
        published=evaluation.get("published", {}),
        parts=list(zip(evaluation["hooks"], pictures, map(front, evaluation["hooks"]), strict=True)),
    )
    write_whole(folder / PAGE, page)
    return folder / PAGE


def front(result: Row) -> list[str]:
    """The dictionaries that no other one surpasses: none explains more with as few active features. Sparsest first."""
    found: list[str] = []
    best = -np.inf
    for name, row in sorted(result["saes"].items(), key=lambda item: (item[1]["l0"], -item[1]["explained_variance"])):
        if row["explained_variance"] > best:
            found.append(name)
            best = row["explained_variance"]
    return found


def pareto(result: Row, evaluation: Row, number: int) -> Picture:
    """A point a dictionary, its colour and mark those of its folder; a line through those that none surpasses."""
    title = "Explained variance against L0"
    figure, [panel] = new_figure(1, title)
    name_panel(panel, f"{result['hook']} of {evaluation['model']}")
    rows: dict[str, Row] = result["saes"]
    looks = axes.kinds([_folder(name) for name in rows])
    axes.scale(panel, np.array([row["l0"] for row in rows.values()]), "x", span=8)
    room(panel, np.array([row["explained_variance"] for row in rows.values()]))
    best = [(rows[name]["l0"], rows[name]["explained_variance"]) for name in front(result)]
    panel.plot(*zip(*best, strict=True), color=axes.GREY, linewidth=1.0, zorder=1)
    for name, row in rows.items():
        colour, mark = looks[_folder(name)]
        panel.plot(row["l0"], row["explained_variance"], mark, color=colour, markersize=7, clip_on=False)
    panel.set_xlabel("active features per token (L0)")
    panel.set_ylabel("explained variance")
    shown = evaluation.get("published", {})
    handles = [
        Line2D([], [], linestyle="none", color=colour, marker=mark, label=_called(folder, shown))
        for folder, (colour, mark) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=9.5)
    if len(rows) <= MOST_LABELS:
        inside = [(row["l0"], row["explained_variance"], name[len(_folder(name)) + 2 :]) for name, row in rows.items()]
        axes.point_labels(panel, [point for point in inside if point[2]])
    caption = (
        "Each point is a dictionary; up is better, left is sparser. The line goes through those that no other one "
        "surpasses. Predicting the mean scores 0. "
        f"Over {words.whole(result['fidelity_tokens'])} tokens, the same for all."
    )
    alt = "Scatter plot: " + "; ".join(
        f"{name}: L0 {row['l0']:.1f}, explained variance {row['explained_variance']:.3f}" for name, row in rows.items()
    )
    return Picture(f"pareto_{number}", title, caption, alt, axes.png(figure))


def _folder(name: str) -> str:
    """`runs/a: l0-40` -> runs/a."""
    return name.partition(": ")[0]


def _called(folder: str, published: Row) -> str:
    short = folder if len(folder) <= 40 else f"…{folder[-39:]}"
    return f"{short} ({published[folder]['format']})" if folder in published else short


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
