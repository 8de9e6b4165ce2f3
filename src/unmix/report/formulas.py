"""What members were trained for, as formulas: of each variant its features and its loss, term by term.

They are those of `unmix.dictionary.table`, in the letters of the page; a test holds that no architecture lacks one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from markupsafe import Markup

from unmix.config import SAEConfig
from unmix.report import words
from unmix.report.data import RunData

NORM = "‖W<sub>dec,i</sub>‖"
_MOST = f"that contribute most, f<sub>i</sub> {NORM}"
FEATURES = {
    "relu": "f = max(z, 0)",
    "tanh_relu": "f = tanh(max(z, 0))",
    "topk": "f = max(z, 0) of the k features of each token",
    "batchtopk": "f = max(z, 0) of the B · k entries of a batch",
    "matryoshka": "f = max(z, 0) of the B · k entries of a batch",
    "jumprelu": "f<sub>i</sub> = z<sub>i</sub> where z<sub>i</sub> &gt; θ<sub>i</sub>, else 0",
    "gated": "f = max(e<sup>r</sup> (z − b<sub>enc</sub>) + b<sub>mag</sub>, 0) where z &gt; 0, else 0",
}
"""φ of each architecture."""
_BATCH = (
    f"Kept are the entries {_MOST}; k is the L0 asked for. The saved dictionary keeps what contributes more than the "
    "mean threshold of the batches, whatever else is in the batch; the numbers here are its own."
)
MEANINGS = {
    "topk": f"Kept are the features {_MOST}; k is the L0 asked for.",
    "batchtopk": _BATCH,
    "matryoshka": _BATCH,
    "gated": "x̂<sub>gate</sub> is what max(z, 0) would give in place of f, with the decoder held fixed.",
}
"""What the letters of an architecture mean, where it has its own."""


class Formula(NamedTuple):
    """Of the variants that share it."""

    variants: list[str]
    features: Markup
    terms: list[tuple[str, Markup]]
    """(coefficient, term of one token): the squared error first, without a coefficient."""
    notes: list[Markup]
    """What belongs to it, in sentences."""
    coefficient: list[Markup]
    """What is done with λ; nothing where there is none."""


def formulas(run: RunData) -> tuple[list[Formula], list[Markup]]:
    """(one for all variants that are trained alike, what holds for all of them)."""
    found: list[Formula] = []
    for variant in run.variants():
        if (sae := run.sae(variant)) is None:
            continue
        asked = any(m.request.kind == "l0" for m in run.members if m.variant == variant)
        new = _formula(run.called(variant), sae, run.training(variant), asked)
        same = next((old for old in found if old[1:] == new[1:]), None)
        if same:
            same.variants.extend(new.variants)
        else:
            found.append(new)
    shared = _common([one.notes for one in found]) + _common([one.coefficient for one in found if one.coefficient])
    own = [[note for note in one.notes + one.coefficient if note not in shared] for one in found]
    return [one._replace(notes=notes) for one, notes in zip(found, own, strict=True)], shared


def _common(lists: list[list[Markup]]) -> list[Markup]:
    return [note for note in lists[0] if all(note in other for other in lists)] if lists else []


def _formula(name: str, sae: SAEConfig, training: dict[str, Any], asked: bool) -> Formula:
    terms = [("", Markup(_error(sae, training))), *_penalty(sae)]
    if sae.architecture == "gated":
        terms.append(("", Markup("‖x̂<sub>gate</sub> − x‖²")))
    if sae.auxk_coefficient:
        terms.append((words.share(sae.auxk_coefficient), Markup("‖x̂<sub>dead</sub> − (x − x̂)‖²")))
    return Formula(
        [name], Markup(FEATURES[sae.architecture]), terms, _notes(sae, training), _coefficient(sae, training, asked)
    )


def _error(sae: SAEConfig, training: dict[str, Any]) -> str:
    power = training.get("norm_power") or 0
    whole = "<sup>1</sup>⁄<sub>P</sub> Σ<sub>p</sub> ‖x̂<sub>p</sub> − x‖²" if sae.all_prefixes else "‖x̂ − x‖²"
    return f"{whole} / ‖x‖{'²' if power == 2 else ''}" if power else whole


def _penalty(sae: SAEConfig) -> list[tuple[str, Markup]]:
    """λ · …; nothing where k says how sparse it is."""
    if sae.takes_k:
        return []
    if sae.architecture == "jumprelu":
        return [("λ", Markup("Σ<sub>i</sub> [z<sub>i</sub> &gt; θ<sub>i</sub>]"))]
    f = "max(z<sub>i</sub>, 0)" if sae.architecture == "gated" else "f<sub>i</sub>"
    weight = f" {NORM}" if sae.weigh_by_norm or sae.architecture == "gated" else ""
    return [("λ", Markup(f"Σ<sub>i</sub> {f}{weight}"))]


def _notes(sae: SAEConfig, training: dict[str, Any]) -> list[Markup]:
    notes = [MEANINGS.get(sae.architecture, "")]
    if sae.architecture == "jumprelu":
        notes.append(
            "[…] is 1 where it holds, else 0, and moves the thresholds θ ≥ 0: its derivative is taken from the "
            f"pre-activations within {sae.bandwidth / 2:g} of them."
        )
    if sae.all_prefixes:
        ends = words.listed([words.whole(end) for end in sae.all_prefixes])
        notes.append(f"x̂<sub>p</sub> is made of the first features alone: {ends} of them.")
    if sae.auxk_coefficient:
        tokens = training.get("revive_after_tokens")
        silent = f" (silent for {words.amount(tokens)} tokens)" if tokens else ""
        notes.append(
            f"x̂<sub>dead</sub> is what a few dead features{silent} give back of the error x − x̂, which is held fixed."
        )
    if sae.noise:
        notes.append(f"In training, Gaussian noise of standard deviation {sae.noise:g} is added to z.")
    if sae.has_unit_rows:
        notes.append(f"{NORM} is held at 1.")
    if training.get("norm_power"):
        notes.append("The L2 loss in the tables and pictures is not divided.")
    return [Markup(note) for note in [*notes, _scaling(sae)] if note]


def _scaling(sae: SAEConfig) -> str:
    return {
        "dataset": "Inputs are multiplied by one scalar per hook so that E‖x‖² = D, the width of the activation: the "
        "losses can be compared between hooks, and so can coefficients.",
        "token": "Each token is brought to the norm √D, D the width of the activation, its reconstruction back; the "
        "losses are of what was brought to it.",
        "none": "Inputs are not scaled, so the losses and the right coefficient depend on the norms at the hook.",
    }[sae.scaling]


def _coefficient(sae: SAEConfig, training: dict[str, Any], asked: bool) -> list[Markup]:
    if sae.takes_k:
        return []
    said = []
    if asked:
        said.append("A controller moves λ until as many features are active as were asked for.")
        if sae.architecture == "jumprelu":
            said.append("The controller that moves λ moves the thresholds too, all by one factor.")
    if power := training.get("l1_norm_power"):
        said.append(f"λ is multiplied by n̄<sup>{_power(power)}</sup>, n̄ the mean norm of the inputs.")
    if share := training.get("l1_warmup_fraction"):
        said.append(f"λ rises from 0 over the first {100 * share:g} % of the steps.")
    return [Markup(note) for note in said]


def _power(power: Any) -> str:
    return "p, with which both terms grow alike" if power == "matched" else f"{power:g}"
