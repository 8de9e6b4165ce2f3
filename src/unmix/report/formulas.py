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
_JUMP = "f<sub>i</sub> = z<sub>i</sub> where z<sub>i</sub> &gt; θ<sub>i</sub>, else 0"
FEATURES = {
    "relu": "f = max(z, 0)",
    "tanh_relu": "f = tanh(max(z, 0))",
    "topk": "f = max(z, 0) of the k features of each token",
    "abstopk": "f = z of the k features of each token, of either sign",
    "batchtopk": "f = max(z, 0) of the B · k entries of a batch",
    "matryoshka": "f = max(z, 0) of the B · k entries of a batch",
    "jumprelu": _JUMP,
    "jumprelu_tanh": _JUMP,
    "jumprelu_quadratic": _JUMP,
    "gated": "f = max(e<sup>r</sup> (z − b<sub>enc</sub>) + b<sub>mag</sub>, 0) where z &gt; 0, else 0",
}
"""φ of each architecture."""
_BATCH = (
    f"Kept are the entries {_MOST}; k is the L0 asked for. The saved dictionary keeps what contributes more than the "
    "mean threshold of the batches, whatever else is in the batch; the numbers here are its own."
)
MEANINGS = {
    "topk": f"Kept are the features {_MOST}; k is the L0 asked for.",
    "abstopk": f"Kept are the features {_MOST.replace('f<sub>i</sub>', '|z<sub>i</sub>|')}; k is the L0 asked for.",
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
        new = _of_targets(new) if run.section("recipe", "activations").get("targets") else new
        same = next((old for old in found if old[1:] == new[1:]), None)
        if same:
            same.variants.extend(new.variants)
        else:
            found.append(new)
    shared = _common([one.notes for one in found]) + _common([one.coefficient for one in found if one.coefficient])
    own = [[note for note in one.notes + one.coefficient if note not in shared] for one in found]
    return [one._replace(notes=notes) for one, notes in zip(found, own, strict=True)], shared


_OF_TARGETS = {
    "x̂": "ŷ", "− x‖": "− y‖", "(x −": "(y −", "/ ‖x‖": "/ ‖y‖", "the error x −": "the error y −",
    "Inputs are multiplied by one scalar per hook so that E‖x‖² = D, the width of the activation":
        "Inputs and targets are each multiplied by a scalar so that E‖x‖² = D and E‖y‖² = E, their widths",
    "Inputs are not scaled, so the losses and the right coefficient depend on the norms at the hook.":
        "Nothing is scaled, so the losses and the right coefficient depend on the norms of the targets.",
    "The mean activation of the first chunk is taken away before x is encoded, and folded into the biases of the saved "
    "dictionary.":
        "The means of x and of y over the first chunk are taken away from them, and folded into the biases of the "
        "saved dictionary.",
    "the mean norm of the inputs": "the mean norm of the targets",
}  # fmt: skip
"""What is said of x, and of y where it is not x."""


def _of_targets(one: Formula) -> Formula:
    """The same where what is to be given is y."""

    def of_y(text: Markup) -> Markup:
        plain = str(text)
        for of_x, said in _OF_TARGETS.items():
            plain = plain.replace(of_x, said)
        return Markup(plain)

    notes = [of_y(note) for note in one.notes]
    return one._replace(
        terms=[(coefficient, of_y(term)) for coefficient, term in one.terms],
        notes=[Markup("y is the target that was given for x; ŷ is made of the features of x."), *notes],
        coefficient=[of_y(note) for note in one.coefficient],
    )


def _common(lists: list[list[Markup]]) -> list[Markup]:
    return [note for note in lists[0] if all(note in other for other in lists)] if lists else []


def _formula(name: str, sae: SAEConfig, training: dict[str, Any], asked: bool) -> Formula:
    terms = [("", Markup(_error(sae, training))), *_penalty(sae)]
    if sae.architecture == "gated":
        terms.append(("", Markup("‖x̂<sub>gate</sub> − x‖²")))
    if sae.multi_k:
        terms.append((f"{sae.multi_k:g}", Markup("‖x̂<sub>4k</sub> − x‖²")))
    if sae.auxk_coefficient:
        terms.append((words.share(sae.auxk_coefficient), Markup("‖x̂<sub>dead</sub> − (x − x̂)‖²")))
    if sae.preactivation_coefficient:
        theta = "θ<sub>i</sub> − z<sub>i</sub>" if sae.has_own_threshold else "− z<sub>i</sub>"
        sum_over_dead = f"Σ<sub>i dead</sub> max({theta}, 0) {NORM}"
        terms.append((f"{sae.preactivation_coefficient:g}", Markup(sum_over_dead)))
    return Formula(
        [name], Markup(FEATURES[sae.architecture]), terms, _notes(sae, training), _coefficient(sae, training, asked)
    )


def _error(sae: SAEConfig, training: dict[str, Any]) -> str:
    power = training.get("norm_power") or 0
    whole = "<sup>1</sup>⁄<sub>P</sub> Σ<sub>p</sub> ‖x̂<sub>p</sub> − x‖²" if _in_prefixes(sae) else "‖x̂ − x‖²"
    return f"{whole} / ‖x‖{'²' if power == 2 else ''}" if power else whole


def _in_prefixes(sae: SAEConfig) -> bool:
    return bool(sae.all_prefixes or sae.random_prefixes)


def _penalty(sae: SAEConfig) -> list[tuple[str, Markup]]:
    """λ · …; nothing where k says how sparse it is."""
    if sae.takes_k:
        return []
    count = "Σ<sub>i</sub> [z<sub>i</sub> &gt; θ<sub>i</sub>]"
    if sae.architecture == "jumprelu":
        return [("λ", Markup(count))]
    if sae.has_target:
        return [("λ", Markup(f"<sup>2</sup>⁄<sub>t</sub> ({count} − t)²"))]
    if sae.architecture == "jumprelu_tanh":
        return [("λ", Markup(f"Σ<sub>i</sub> tanh({sae.tanh_scale:g} f<sub>i</sub> {NORM})"))]
    f = "max(z<sub>i</sub>, 0)" if sae.architecture == "gated" else "f<sub>i</sub>"
    weight = f" {NORM}" if sae.weigh_by_norm or sae.architecture == "gated" else ""
    return [("λ", Markup(f"Σ<sub>i</sub> {f}{weight}"))]


def _notes(sae: SAEConfig, training: dict[str, Any]) -> list[Markup]:
    notes = [MEANINGS.get(sae.architecture, "")]
    if sae.has_own_threshold:
        what = "The jump at θ" if sae.architecture == "jumprelu_tanh" else "[…] is 1 where it holds, else 0, and"
        notes.append(
            f"{what} moves the thresholds θ ≥ 0: its derivative is taken from the pre-activations within "
            f"{sae.bandwidth / 2:g} of them."
        )
    if sae.has_target:
        notes.append("t is the L0 asked for.")
    if sae.random_prefixes:
        notes.append(
            f"x̂<sub>p</sub> is made of the first features alone: {sae.random_prefixes} numbers of them, drawn anew for "
            "each step, and all."
        )
    if sae.multi_k:
        notes.append("x̂<sub>4k</sub> has four times as many active features.")
    if sae.preactivation_coefficient:
        notes.append("Σ<sub>i dead</sub> is over the features that were silent for long, and brings them back.")
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
    if sae.aligned:
        notes.append("The inner product of a feature's encoder and decoder is held at 1.")
    if sae.has_unit_rows:
        notes.append(f"{NORM} is held at 1.")
    if training.get("norm_power"):
        notes.append("The L2 loss in the tables and pictures is not divided.")
    return [Markup(note) for note in [*notes, _scaling(sae), _CENTRE[sae.centre]] if note]


_CENTRE = {
    "mean": "The mean activation of the first chunk is taken away before x is encoded, and folded into the biases of "
    "the saved dictionary.",
    "start": "Biases start at the mean activation of the first chunk.",
    "none": "",
}


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
    if asked and not sae.has_target:
        said.append("A controller moves λ until as many features are active as were asked for.")
        if sae.has_own_threshold:
            said.append("The controller that moves λ moves the thresholds too, all by one factor.")
    if power := training.get("l1_norm_power"):
        said.append(f"λ is multiplied by n̄<sup>{_power(power)}</sup>, n̄ the mean norm of the inputs.")
    if share := training.get("l1_warmup_fraction"):
        said.append(f"λ rises from 0 over the first {100 * share:g} % of the steps.")
    return [Markup(note) for note in said]


def _power(power: Any) -> str:
    return "p, with which both terms grow alike" if power == "matched" else f"{power:g}"
