"""What a planned run will explain, by the law through one's own finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.cli.scaling_law import Law
    from unmix.config import RunConfig


@dataclass(frozen=True)
class Prediction:
    """Explained variance on held-out activations; from low to high is the law's error, once."""

    l0: float
    explained_variance: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """Of one hook and kind."""

    hook: str
    variant: str
    law: Law | None = None
    predictions: list[Prediction] = field(default_factory=list)
    beyond: dict[str, float] = field(default_factory=dict)
    """By how many times the plan is outside of what the runs span."""
    refused: str | None = None
    """Why there is no law, or no prediction by it."""
    unread: dict[str, str] = field(default_factory=dict)
    """Folder -> why, of the evaluated ones that could not be read."""


def outlooks_of(recipe: RunConfig, tokens: int, runs: Path) -> list[Outlook]:
    """One for each hook and kind of the recipe, trained on so many tokens."""
    kinds = [(hook, variant) for hook in recipe.activations.hooks for variant in recipe.variants or [""]]
    return [_outlook(recipe, hook, variant, tokens, runs) for hook, variant in kinds]


def _outlook(recipe: RunConfig, hook: str, variant: str, tokens: int, runs: Path) -> Outlook:
    from unmix.cli.own_runs import points_like
    from unmix.cli.scaling_law import fit

    sae, training = recipe.of_variant(variant)
    points, unread = points_like(recipe, hook, variant, runs)
    if not points:
        why = f"none: no finished run like this in {runs}/, evaluated on held-out tokens"
        return Outlook(hook, variant, refused=why, unread=unread)
    try:
        law = fit(points)
    except UserError as error:
        return Outlook(hook, variant, refused=f"none: {error}", unread=unread)
    if not training.l0:
        why = "no prediction: the law needs an L0, and the recipe gives coefficients"
        return Outlook(hook, variant, law, refused=why, unread=unread)
    predictions: list[Prediction] = []
    beyond: dict[str, float] = {}
    for l0 in training.l0:
        at = {"tokens": tokens, "features": sae.features, "l0": l0}
        try:
            unexplained = law.unexplained(**at)
        except UserError as error:
            return Outlook(hook, variant, law, refused=f"no prediction: {error}", unread=unread)
        ends = (unexplained * math.exp(law.error), unexplained / math.exp(law.error))
        predictions.append(Prediction(l0, 1 - unexplained, 1 - ends[0], 1 - ends[1]))
        beyond |= {name: max(times, beyond.get(name, 0.0)) for name, times in law.beyond(**at).items()}
    return Outlook(hook, variant, law, predictions, beyond, unread=unread)


def lines_of(outlooks: Sequence[Outlook], runs: Path) -> Iterator[tuple[str, str]]:
    """For people."""
    for name, why in {name: why for outlook in outlooks for name, why in outlook.unread.items()}.items():
        yield "", f"not counted: {name}: {why}"
    for outlook in outlooks:
        named = " ".join(filter(None, [outlook.hook if len(outlooks) > 1 else "", outlook.variant]))
        head, law = f"{named}: " if named else "", outlook.law
        if law is None:
            yield "law", f"{head}{outlook.refused}"
            continue
        yield "law", f"{head}{law}, through {law.dictionaries} dictionaries of {law.runs} runs in {runs}/"
        yield "", f"its error: 1 - EV of a left-out run is missed by a factor of {math.exp(law.error):.3f}"
        if outlook.refused:
            yield "", outlook.refused
            continue
        said = ", ".join(
            f"{one.explained_variance:.3f} ({one.low:.3f} to {one.high:.3f}) at L0 {one.l0:g}"
            for one in outlook.predictions
        )
        yield "", f"so explained variance will be {said}"
        for name, times in outlook.beyond.items():
            what = "L0" if name == "l0" else name
            yield (
                "",
                f"that is {times:.1f} times outside of the {what} of these runs, where the law is untested",
            )
