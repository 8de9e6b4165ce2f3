"""What `evaluation.json` holds, in pictures: quality against sparsity with error bars, and how often features fire."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from unmix.errors import UserError
from unmix.report import axes, words
from unmix.report.plots import Picture, new_figure

Row = dict[str, Any]
RECOVERED = ("loss_recovered_mean", "loss_recovered_zero")
MOST_LABELS = 12  # points; more names than these lie on each other


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of a run; none if it was not evaluated. Raises `UserError` if the file is damaged.

    A loss recovered that is null, because it would mean nothing, is NaN here.
    """
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run `unmix evaluate {folder}` again") from None
    assert isinstance(found, dict)
    for result in found["hooks"]:
        for row in result["saes"].values():
            row |= {key: math.nan for key in RECOVERED if row.get(key) is None}
    return found


def draw_evaluation(evaluation: dict[str, Any]) -> list[Picture]:
    """Three pictures a hook."""
    pictures = []
    with axes.style():
        for number, result in enumerate(evaluation["hooks"]):
            suffix = f"_{number}" if len(evaluation["hooks"]) > 1 else ""
            pictures += [_variance(result, suffix), _cross_entropy(result, suffix), _density(result, suffix)]
    return pictures


def _ordered(result: Row) -> list[tuple[str, Row]]:
    return sorted(result["saes"].items(), key=lambda item: -item[1]["l0"])


def _palette(result: Row) -> dict[str, tuple[float, float, float]]:
    names = [name for name, _ in _ordered(result)]
    ranked = axes.colours(list(range(len(names))))
    return {name: ranked[rank] for rank, name in enumerate(names)}


def _points(panel: Axes, result: Row, column: str, error: str | None) -> None:
    palette, rows = _palette(result), _ordered(result)
    x = np.array([row["l0"] for _, row in rows])
    y = np.array([row[column] for _, row in rows])
    axes.scale(panel, x, "x", span=8)
    axes.scale(panel, y, "y", span=20)
    kinds = list(dict.fromkeys(_kind(name) for name, _ in rows))
    shades = axes.colours(list(range(len(kinds))))
    for index, kind in enumerate(kinds):
        own = [(row["l0"], row[column]) for name, row in rows if _kind(name) == kind]
        colour = shades[index] if len(kinds) > 1 else "#c4c4c4"
        panel.plot(*zip(*own, strict=True), color=colour, linewidth=1.0, zorder=1, label=kind)
    for name, row in rows:
        bar = 2 * row[error] if error and math.isfinite(row[error]) else None
        colour = shades[kinds.index(_kind(name))] if len(kinds) > 1 else palette[name]
        panel.errorbar(row["l0"], row[column], yerr=bar, fmt="o", color=colour, markersize=7, capsize=3)
    panel.set_xlabel("active features per token (L0)")
    if len(kinds) > 1:
        panel.legend(fontsize=7, ncols=2)
    if len(rows) <= MOST_LABELS:
        axes.point_labels(panel, [(row["l0"], row[column], name) for name, row in rows])


def _kind(name: str) -> str:
    """What a member's name has before its coefficient: a variant, or nothing."""
    return name.rpartition("l1-")[0].rstrip("-")


def _variance(result: Row, suffix: str) -> Picture:
    title = "Held out: explained variance against L0"
    figure, [panel] = new_figure(1, title)
    _points(panel, result, "explained_variance", None)
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
        f"Over {words.whole(result['fidelity_tokens'])} held-out tokens."
    )
    alt = "Scatter plot: " + "; ".join(
        f"{name}: L0 {row['l0']:.1f}, explained variance {row['explained_variance']:.3f}" for name, row in rows
    )
    return Picture(f"heldout_variance{suffix}", title, caption, alt, axes.png(figure))


def _cross_entropy(result: Row, suffix: str) -> Picture:
    title = "Held out: cost in cross-entropy against L0"
    figure, [panel] = new_figure(1, title)
    _points(panel, result, "delta_ce", "delta_ce_standard_error")
    panel.set_ylabel("ΔCE, nats per token")
    mean, zero = result["baselines"]["predict the mean"], result["baselines"]["zero"]
    clusters = "document" if "ce_documents" in result else "sequence"  # as older evaluations have it
    caption = (
        "What the model's cross-entropy rises by when the reconstruction takes the place of the activation; down is "
        f"better. Bars: two standard errors, by {clusters}. Untouched: {result['ce_untouched']:.3f} nats; the mean "
        f"in its place costs {mean['delta_ce']:.2f}, zero {zero['delta_ce']:.2f}. "
        f"Over {words.whole(result['ce_tokens'])} held-out tokens."
    )
    alt = "Scatter plot: " + "; ".join(
        f"{name}: L0 {row['l0']:.1f}, delta CE {row['delta_ce']:.4f}" for name, row in _ordered(result)
    )
    return Picture(f"heldout_ce{suffix}", title, caption, alt, axes.png(figure))


def _density(result: Row, suffix: str) -> Picture:
    title = "Held out: how often features fire"
    figure, [panel] = new_figure(1, title)
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
    caption = (
        "Features by the share of tokens that they are active on, one step a factor of ten. Features that never fired "
        f"are not in the steps; their share stands beside the name. Over {words.whole(result['fidelity_tokens'])} "
        f"held-out tokens.{f' {len(shown)} of {len(rows)} dictionaries are shown.' if len(shown) < len(rows) else ''}"
    )
    alt = "Histogram of feature densities; dead: " + "; ".join(
        f"{name} {row['dead']:.1%}" for name, row in _ordered(result)
    )
    return Picture(f"heldout_density{suffix}", title, caption, alt, axes.png(figure))
