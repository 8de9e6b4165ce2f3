"""The pictures of training, each with a caption that says what one sees, in which unit, over how many tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from unmix.report import axes, l1, words
from unmix.report.data import Floats, Member, RunData
from unmix.report.panels import Panel, panels
from unmix.report.picture import Picture, averaged, name_panel, named, new_figure, room, tokens_per_step
from unmix.report.trade_off import trade_off
from unmix.report.whole_length import whole_length


def draw(run: RunData) -> list[Picture]:
    """Every picture the run has numbers for."""
    with axes.style():
        pictures = [*_losses(run), *_proportions(run), *_sparsity(run), _variance(run), trade_off(run)]
        for number, member in enumerate(run.shown()):
            pictures.append(whole_length(run, member, f"whole_length{f'_{number}' if number else ''}"))
    return pictures


def _losses(run: RunData) -> list[Picture]:
    """The two terms; the L1 where a coefficient was asked for."""
    error = _curves(
        run,
        "l2_reconstruction_loss",
        "L2 reconstruction loss",
        f"Squared error summed over the width of the {_given(run)}, {_scaled(run)}. Lower is better.",
        "squared error per token",
    )
    if run.asks_l0():
        return [error]
    weighted, multiplied = l1.weighted(run), l1.is_multiplied(run)
    weights = ", each times the norm of its decoder row"
    weights = {True: weights, False: "", None: f"{weights} where the penalty weighs it so"}[weighted]
    which = "It is shown before the multiplication with λ, so the members can be compared."
    if not multiplied:
        which = "λ multiplies another penalty" + (" of some of the variants." if multiplied is None else ".")
    penalty = _curves(
        run,
        "l1_penalty",
        "L1 penalty, before λ" if multiplied else "L1 of the features",
        f"Summed feature activations per token{weights}. {which}",
        "penalty per token" if multiplied else "L1 per token",
    )
    return [penalty, error]


def _proportions(run: RunData) -> list[Picture]:
    """Where a coefficient was asked for, and nobody could know how many features would be active."""
    if run.asks_l0():
        return []

    def cap(member: Member) -> float:
        return run.max_active / run.features_of(member.variant)

    return [
        _curves(
            run,
            "nonzero_proportion",
            "Nonzero proportion",
            f"Share of the {words.between(*run.widths())} features that are active on a token. The dashed line is "
            f"the cap: {words.coefficient(run.max_active)} active features.",
            "share of features",
            cap=cap,
        ),
        _curves(
            run,
            "nonzero_proportion",
            "Nonzero proportion, zoomed",
            "The same near the cap, on a linear scale that ends at twice the cap; an arrow marks a member that "
            "ends above.",
            "share of features",
            name="nonzero_proportion_zoom",
            cap=cap,
            zoomed=True,
        ),
    ]


def _sparsity(run: RunData) -> list[Picture]:
    """L0, beside what was asked for; and the coefficients that controllers moved to bring it there."""
    asked = any(request.kind == "l0" for request in run.requests())
    active = _curves(
        run,
        "l0",
        "Active features",
        "How many features are active on a token (L0). The dashed line is the most that the choice allows"
        f"{'; thin lines are the L0 asked for' if asked else ''}.",
        "active features per token",
        cap=lambda member: run.max_active,
    )
    if not any(member.is_steered for member in run.members):
        return [active]
    coefficient = _curves(
        run,
        "coefficient",
        "Coefficient of the penalty",
        "What a controller moved λ to, so that a member comes to the L0 that it was asked for. Architectures have "
        "different penalties: only the same one has coefficients that can be compared.",
        "λ",
        of=lambda member: member.is_steered,
    )
    return [active, coefficient]


def _variance(run: RunData) -> Picture:
    return _curves(
        run,
        "explained_variance",
        "Explained variance",
        f"Share of the {_given(run)}s' variance that the reconstruction keeps; 1 is perfect, and always "
        "predicting the mean scores 0. The first steps may lie below the picture.",
        "explained variance",
    )


def _curves(
    run: RunData,
    column: str,
    title: str,
    caption: str,
    unit: str,
    *,
    name: str | None = None,
    cap: Callable[[Member], float] = lambda member: float("nan"),
    zoomed: bool = False,
    of: Callable[[Member], bool] = lambda member: True,
) -> Picture:
    """One metric of these members over the sweep; `zoomed`, on a linear scale from 0 to twice the cap.

    `cap`: of a member; those of a panel have the same.
    """
    parts = [Panel(panel.name, [line for line in panel.lines if of(line.member)]) for panel in panels(run)]
    parts = [part for part in parts if part.lines]
    figure, drawn = new_figure(len(parts), title)
    last = max((member.sweep.last()["step"] for member in run.members if len(member.sweep)), default=1.0)
    for panel, part in zip(drawn, parts, strict=True):
        for line in part.lines:
            rows, width = line.member.sweep, 2.3 if run.chosen(line.member.name) else 1.6
            axes.curve(panel, rows["step"], rows[column], line.colour, line.dashes, width)
        limit = cap(part.members[0])
        asked = sorted({m.request.value for m in part.members if m.request.kind == "l0"}) if column == "l0" else []
        values = np.concatenate([axes.smooth(member.sweep[column]) for member in part.members])
        if zoomed and limit > 0:
            panel.set_ylim(0, 2 * limit)
        elif column == "explained_variance":
            _variance_scale(panel, part.members)
        else:
            axes.scale(panel, np.concatenate([values, [limit], asked]))
        axes.progress(panel, last, tokens_per_step(part.members), panel is drawn[0], panel is drawn[-1])
        for value in asked:
            axes.asked_line(panel, value)
        if np.isfinite(limit):
            axes.cap_line(panel, limit)
        panel.set_ylabel(unit)
        if part.name:
            name_panel(panel, part.name)
        ends: list[tuple[float, str, object, bool]] = [
            (_end(line.member.sweep[column]), line.label, line.colour, run.chosen(line.member.name))
            for line in part.lines
        ]
        ends.append((limit, f"cap {words.coefficient(run.max_active)}", axes.CAP, False))
        axes.end_labels(panel, ends, _panel_height(drawn))
    alt = f"Line chart: {title.lower()} over the sweep's steps. At the end: " + "; ".join(
        f"{named(run, member)} {words.number(_end(member.sweep[column]))}" for part in parts for member in part.members
    )
    return Picture(name or column, title, f"{caption} {averaged(run)}", alt + ".", axes.png(figure))


def _panel_height(drawn: Sequence[Axes]) -> float:
    """Points, near enough to keep labels apart."""
    return 160.0 if len(drawn) == 1 else 130.0


def _variance_scale(panel: Axes, members: Sequence[Member]) -> None:
    """All of the later course; the first fifth may dive below, and 0 is in sight once it is near."""
    later = [axes.smooth(member.sweep["explained_variance"])[len(member.sweep) // 5 :] for member in members]
    room(panel, np.concatenate(later))
    bottom, _ = panel.get_ylim()
    if bottom < 0.35:
        bottom = min(max(bottom, -0.5), -0.03)
        panel.axhline(0, color=axes.GREY, linewidth=1.0, linestyle=(0, (2, 1.5)))
    panel.set_ylim(bottom, 1.0)


def _end(values: Floats) -> float:
    """The last known value of the line as it is drawn."""
    known = axes.smooth(values)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else float("nan")


def _given(run: RunData) -> str:
    """What a dictionary gives back."""
    return "target" if run.has_targets() else "activation"


_SCALED = {
    "dataset": "scaled by one number so that their mean square norm is their width",
    "token": "each scaled to the root of its width",
    "none": "not scaled",
}


def _scaled(run: RunData) -> str:
    """On what the losses are: in which units."""
    what = "targets as the dictionary is to give them" if run.has_targets() else "inputs as the dictionary sees them"
    of: dict[str, list[str]] = {}
    for variant in run.variants():
        if sae := run.sae(variant):
            of.setdefault(_SCALED[sae.scaling], []).append(run.called(variant))
    said = "; ".join(of if len(of) < 2 else [f"{words.listed(names)}: {how}" for how, names in of.items()])
    return f"on the {what}" + (f" ({said})" if said else "")
