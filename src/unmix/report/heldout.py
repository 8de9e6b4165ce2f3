"""What `evaluation.json` holds, in pictures: quality against sparsity with error bars, and how often features fire."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unmix import runlog
from unmix.config import GIVEN
from unmix.report import axes, words
from unmix.report.data import RunData
from unmix.report.picture import Picture, name_panel, new_figure
from unmix.runlog import newest_checkpoints, split_name

Row = dict[str, Any]
RECOVERED = ("loss_recovered_mean", "loss_recovered_zero")
MOST_LABELS = 12  # points; more names than these lie on each other


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of a run; none if it was not evaluated. Raises as `runlog.read_evaluation`.

    A loss recovered that is null, because it would mean nothing, is NaN here.
    """
    found = runlog.read_evaluation(folder)
    for result in found["hooks"] if found else ():
        for row in result["saes"].values():
            row |= {key: math.nan for key in RECOVERED if row.get(key) is None}
    return found


def heading(result: Row) -> str:
    """What the section of a hook is called: numbers over documents that training may have seen are not held out."""
    return "Held out" if _is_held_out(result) else "Evaluated"


def of_split(result: Mapping[str, Any]) -> str:
    """`held-out tokens`, or tokens of which split."""
    return "held-out tokens" if _is_held_out(result) else f"tokens (split {result['split']})"


def _is_held_out(result: Mapping[str, Any]) -> bool:
    return bool(result.get("split", "held_out") == "held_out")


def behind(folder: Path, evaluation: dict[str, Any]) -> str:
    """What has been trained since the run was evaluated, in a sentence; empty if nothing has."""
    newest = {name: str(path.relative_to(folder)) for name, path in newest_checkpoints(folder).items()}
    there = {name for result in evaluation["hooks"] for name in result["saes"]}
    known = evaluation.get("checkpoints") or {name: newest.get(name) for name in there}  # older ones name none
    absent = [name for name in newest if name not in known]
    further = [name for name in newest if name in known and known[name] != newest[name]]
    if not absent + further:
        return ""
    said = [f"{words.listed(absent)} {'is' if len(absent) == 1 else 'are'} not in these numbers"] if absent else []
    if further:
        said.append(f"those of {words.listed(further)} are not of the newest checkpoint")
    what = "the extension" if all(name.endswith("-extended") for name in absent + further) else "the newest checkpoints"
    return f"Evaluated before {what}: {'; '.join(said)}."


def elsewhere(run: RunData, evaluation: Mapping[str, Any]) -> str:
    """On what else than it was trained on a run was evaluated, in a sentence; empty if on the same."""
    model = run.section("recipe", "model").get("name")
    corpus = run.rows() or run.section("recipe", "corpus").get("source")
    said = []
    if None not in (there := evaluation.get("model"), model) and there != model:
        said.append(f"in the model {there}")
    if None not in (there := evaluation.get("corpus"), corpus) and there != corpus:
        said.append(f"on {there}")
    said += [f"with corpus.{key} = {value}" for key, value in (evaluation.get("corpus_keys") or {}).items()]
    return f"Not on what was trained on: evaluated {words.listed(said)}." if said else ""


def command(run: RunData) -> str:
    """What to type for an evaluation of the newest checkpoints; the call of Python, if that gave the activations."""
    if run.section("recipe", "activations").get("rows") == GIVEN:
        return f"unmix.sweep(activations=…, name={run.folder.name!r}, …)"
    return f"unmix evaluate {shlex.quote(str(run.folder))}"


def draw_evaluation(evaluation: dict[str, Any], run: RunData) -> list[list[Picture]]:
    """Three pictures for each hook, two where there was no model; variants look as they do in the run's others."""
    several = len(evaluation["hooks"]) > 1
    called = {variant: run.called(variant) for variant in run.variants()}
    pictures = []
    with axes.style():
        for number, result in enumerate(evaluation["hooks"]):
            own, suffix = within(result), f"_{number}" if several else ""
            cost = [_cross_entropy(own, suffix, called)] if "ce_tokens" in own else []
            pictures.append([_variance(own, suffix, called), *cost, _density(own, suffix)])
    return pictures


def within(result: Row) -> Row:
    """The result of a hook, the names of its dictionaries without the hook."""
    hook = f"{result['hook']}-"
    return {**result, "saes": {name.removeprefix(hook): row for name, row in result["saes"].items()}}


def _figure(title: str, result: Row, suffix: str) -> tuple[Figure, Axes]:
    """A figure of one panel, which is named for its hook where there are several."""
    figure, [panel] = new_figure(1, title)
    if suffix:
        name_panel(panel, str(result["hook"]))
    return figure, panel


def _ordered(result: Row) -> list[tuple[str, Row]]:
    return sorted(result["saes"].items(), key=lambda item: -item[1]["l0"])


def _palette(result: Row) -> dict[str, tuple[float, float, float]]:
    names = [name for name, _ in _ordered(result)]
    ranked = axes.colours(list(range(len(names))))
    return {name: ranked[rank] for rank, name in enumerate(names)}


def _points(
    figure: Figure, panel: Axes, result: Row, column: str, error: str | None, called: Mapping[str, str]
) -> None:
    """A point a dictionary, a line through those of one variant; `called`: the variants in order, and their names."""
    palette, rows = _palette(result), _ordered(result)
    x = np.array([row["l0"] for _, row in rows])
    y = np.array([row[column] for _, row in rows])
    axes.scale(panel, x, "x", span=8)
    bars = np.array([2 * row[error] if error and math.isfinite(row[error]) else 0.0 for _, row in rows])
    # a share has no decades
    axes.scale(panel, np.append(y, y + bars), "y", span=20 if error else math.inf)
    if panel.get_yscale() == "linear":
        panel.set_ylim(bottom=min(panel.get_ylim()[0], float((y - bars).min())))
    looks = axes.kinds([*called, *(split_name(name)[0] for name, _ in rows)])
    there = {split_name(name)[0] for name, _ in rows}
    for kind in [kind for kind in looks if kind in there]:
        own = [(row["l0"], row[column]) for name, row in rows if split_name(name)[0] == kind]
        panel.plot(
            *zip(*own, strict=True), color=looks[kind][0] if len(there) > 1 else "#c4c4c4", linewidth=1.0, zorder=1
        )
    for (name, row), bar in zip(rows, bars, strict=True):
        colour, mark = looks[split_name(name)[0]] if len(there) > 1 else (palette[name], "o")
        panel.errorbar(row["l0"], row[column], yerr=bar or None, fmt=mark, color=colour, markersize=7, capsize=3)
    panel.set_xlabel("active features per token (L0)")
    if len(there) > 1:
        handles = [
            Line2D([], [], color=colour, marker=mark, label=called.get(kind, kind))
            for kind, (colour, mark) in looks.items()
            if kind in there
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    if len(rows) <= MOST_LABELS:
        axes.point_labels(panel, [(row["l0"], row[column], _label(name, len(there) > 1)) for name, row in rows])


def _label(name: str, several: bool) -> str:
    """What a point is called: among several variants not by that, nor by an L0, which is where it stands."""
    return re.sub(r"^l0-[\d.]+[-, ]*", "", split_name(name)[1]) if several else name


def _variance(result: Row, suffix: str, called: Mapping[str, str]) -> Picture:
    title = f"{heading(result)}: explained variance against L0"
    figure, panel = _figure(title, result, suffix)
    _points(figure, panel, result, "explained_variance", None, called)
    rows = _ordered(result)
    order = np.argsort([row["l0"] for _, row in rows])
    x = np.array([row["l0"] for _, row in rows])[order]
    pca = np.array([row["pca_explained_variance_at_l0"] for _, row in rows])[order]
    panel.plot(x, pca, color=axes.GREY, linewidth=1.0, linestyle=(0, (2, 1.5)))
    low = min(pca.min(), *(row["explained_variance"] for _, row in rows))
    panel.set_ylim(max(min(low - 0.05, 0.9), -0.05), 1.02)
    panel.set_ylabel("explained variance")
    caption = (
        "Each point is a dictionary; up is better, left is sparser. Dashed: as many principal directions as active "
        "features, fitted on the very tokens they are judged on. Predicting the mean scores 0. "
        f"Over {words.whole(result['fidelity_tokens'])} {of_split(result)}."
    )
    alt = "Scatter plot: " + "; ".join(
        f"{name}: L0 {row['l0']:.1f}, explained variance {row['explained_variance']:.3f}" for name, row in rows
    )
    return Picture(f"heldout_variance{suffix}", title, caption, alt, axes.png(figure))


def _cross_entropy(result: Row, suffix: str, called: Mapping[str, str]) -> Picture:
    title = f"{heading(result)}: cost in cross-entropy against L0"
    figure, panel = _figure(title, result, suffix)
    _points(figure, panel, result, "delta_ce", "delta_ce_standard_error", called)
    panel.set_ylabel("ΔCE, nats per token")
    mean, zero = result["baselines"]["predict the mean"], result["baselines"]["zero"]
    clusters = "document" if "ce_documents" in result else "sequence"  # as older evaluations have it
    caption = (
        "What the model's cross-entropy rises by when the reconstruction takes the place of the activation; down is "
        f"better. Bars: two standard errors, by {clusters}. Untouched: {result['ce_untouched']:.3f} nats; the mean "
        f"in its place costs {mean['delta_ce']:.2f}, zero {zero['delta_ce']:.2f}. "
        f"Over {words.whole(result['ce_tokens'])} {of_split(result)}."
    )
    alt = "Scatter plot: " + "; ".join(
        f"{name}: L0 {row['l0']:.1f}, delta CE {row['delta_ce']:.4f}" for name, row in _ordered(result)
    )
    return Picture(f"heldout_ce{suffix}", title, caption, alt, axes.png(figure))


def _density(result: Row, suffix: str) -> Picture:
    title = f"{heading(result)}: how often features fire"
    figure, panel = _figure(title, result, suffix)
    palette = _palette(result)
    ends: list[tuple[float, str, object, bool]] = []
    rows = _ordered(result)
    shown = [rows[i] for i in sorted({round(p) for p in np.linspace(0, len(rows) - 1, min(len(rows), MOST_LABELS))})]
    for index, (name, row) in enumerate(shown):
        edges = np.array(row["density_edges"])
        share = np.array(row["density_counts"]) / row["features"]
        dashes = axes.DASHES[index % len(axes.DASHES)]
        panel.stairs(share, edges, color=palette[name], linewidth=1.6, linestyle=dashes)
        ends.append((float(share[-1]), f"{name}, {row['dead']:.0%} dead", palette[name], False))
    panel.set_xscale("log")
    panel.set_xlabel("share of tokens on which a feature fires")
    panel.set_ylabel("share of the features")
    axes.end_labels(panel, ends, 160.0)
    some = f" {len(shown)} of {len(rows)} dictionaries are shown." if len(shown) < len(rows) else ""
    caption = (
        "Features by the share of tokens that they are active on, one step a factor of ten. Features that never fired "
        "are not in the steps; their share stands beside the name. "
        f"Over {words.whole(result['fidelity_tokens'])} {of_split(result)}.{some}"
    )
    alt = "Histogram of feature densities; dead: " + "; ".join(
        f"{name} {row['dead']:.1%}" for name, row in _ordered(result)
    )
    return Picture(f"heldout_density{suffix}", title, caption, alt, axes.png(figure))
