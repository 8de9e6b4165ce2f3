"""What the members were trained on, and how: the rows of the page's last table."""

from __future__ import annotations

import math
from typing import Any

from unmix.activations.outliers import from_facts
from unmix.config import GIVEN, MaskConfig, SAEConfig
from unmix.report import words
from unmix.report.data import RunData, as_number
from unmix.report.spent import furthest, rate, seconds, tokens


def trained_on(run: RunData) -> list[tuple[str, str]]:
    """Rows of (name, value): model, corpus, tokens, epochs, time, machine, versions; what is unknown is left out."""
    model, corpus, machine = run.section("model"), run.section("corpus"), run.section("machine")
    rows = [
        (
            "Model",
            _joined(run.model() if model.get("name") else "", _count(model, "parameters"), _count(model, "layers")),
        ),
        *((f"Hook {hook}", _hook(run, hook)) for hook in run.hooks()),
        *_dictionaries(run),
        (
            "Corpus",
            _joined(corpus.get("source"), _count(corpus, "train_documents"), _count(corpus, "train_tokens")),
        ),
        ("Split", "curves, members and choice: the stream trained on; what is of held-out documents says so"),
        ("Tokens masked", _tokens_masked(run)),
        ("Activations", _activations(run)),
        ("Arithmetic", _arithmetic(run)),
        ("Tokens seen", _seen(run)),
        ("Epochs", _epochs(run)),
        ("Time", _phases(run)),
        ("Machine", _joined(machine.get("cpu"), _count(machine, "cores"))),
        ("Versions", _joined(*(f"{name} {version}" for name, version in run.section("versions").items()))),
        ("Started", str(run.about.get("created") or "")),
        ("Fingerprints", _joined(_print("model", model), _print("corpus", corpus))),
    ]
    return [(name, value) for name, value in rows if value]


def _activations(run: RunData) -> str:
    """From the running model, a store or rows of one's own; in which dtype, and what products in bf16 changed."""
    if rows := run.rows():
        return f"{'handed over in Python' if rows == GIVEN else f'read from {rows}'}; no model was run"
    corpus, model = run.section("corpus"), run.section("model")
    changes = ", ".join(
        f"{hook} by {words.percent(as_number(by))}" for hook, by in (model.get("bf16_change") or {}).items()
    )
    change = f"which changes {changes} (||x' - x|| / ||x||, the median token of the first sequences)"
    products = f"; its matrix products are in bf16, {change}" if changes else ""
    if "store_dtype" in corpus:
        rows = words.whole(as_number(corpus.get("store_rows")))
        return f"read from a store of {rows} rows in {corpus['store_dtype']}{products}"
    return f"from the running model, which computes in {model.get('dtype') or 'float32'}{products}"


def _arithmetic(run: RunData) -> str:
    """What of the training is not in float32, by variant where they differ."""
    said: dict[str, list[str]] = {}
    for variant in run.variants():
        said.setdefault(_numbers(run.training(variant), run.sae(variant)), []).append(run.called(variant))
    if len(said) == 1:
        return next(iter(said))
    return ". ".join(f"{words.listed(names)}: {text or 'all in float32'}" for text, names in said.items())


def _numbers(training: dict[str, Any], sae: SAEConfig | None) -> str:
    """The same of one variant; with noise nothing is rounded, and dense steps only of relu."""
    if sae is None or sae.noise:
        return ""
    said = []
    if training.get("dense") == "bf16" and sae.architecture == "relu":
        said.append("while many features are active, the matrix products of a step are in bf16")
    if (found := training.get("selection")) in ("bf16", "int8"):
        said.append(f"once few features are active, a product in {found} finds which")
    return "; ".join([*said, "all else in float32"]) if said else ""


def _phases(run: RunData) -> str:
    parts = [
        f"{phase} {_joined(words.duration(seconds(run, phase)), rate(run, phase))}"
        for phase in ("sweep", "extension")
        if seconds(run, phase)
    ]
    return "; ".join(parts)


def _seen(run: RunData) -> str:
    sweep, most = tokens(run, "sweep"), furthest(run)["tokens"]
    if not math.isfinite(sweep):
        return ""
    said = f"{words.whole(sweep)} by every member in the sweep"
    ones = "one" if len(run.extended()) == 1 else "ones"
    return f"{said}, {words.whole(most)} by the extended {ones}" if run.extended() else said


def _epochs(run: RunData) -> str:
    """How often what is read was read, masked tokens counted: the store, or what becomes activations of the corpus."""
    read = furthest(run)["step"] * as_number(run.section("recipe", "training").get("batch_tokens"))
    corpus = run.section("corpus")
    for key, what, unit in _THERE:
        there = as_number(corpus.get(key))
        if math.isfinite(read) and there > 0:
            return f"{read / there:.2f} times over the {what} ({words.whole(there)} {unit})"
    return ""


_THERE = (
    ("store_rows", "store", "activations"),
    ("activations", "corpus", "activations"),  # where not every token becomes one, as of chats with roles
    ("train_tokens", "corpus", "training tokens"),
)
"""What there is to read, by its key in run.yaml; the first of them that a run has counts."""


def _hook(run: RunData, hook: str) -> str:
    facts = run.section("hooks", hook)
    width, norm = (as_number(facts.get(key)) for key in ("width", "mean_norm"))
    scales = {
        as_number(member.get("scale")) for member in run.section("members").values() if member.get("hook") == hook
    }
    scale = scales.pop() if len(scales) == 1 else as_number(facts.get("scale"))
    per_token = {sae.scaling for variant in run.variants() if (sae := run.sae(variant))} == {"token"}
    targets = facts.get("targets") or {}
    to, of_targets = as_number(targets.get("width")), as_number(targets.get("mean_norm"))
    return _joined(
        f"width {words.whole(width)}" if math.isfinite(width) else "",
        f"mean norm {words.number(norm)}" if math.isfinite(norm) else "",
        "each input scaled to the root of the width" if per_token else "",
        f"inputs times {words.number(scale)}" if math.isfinite(scale) and not per_token else "",
        str(from_facts(outliers)) if (outliers := facts.get("outliers") or {}).get("tokens") else "",
        f"targets of width {words.whole(to)}" if math.isfinite(to) else "",
        f"their mean norm {words.number(of_targets)}" if math.isfinite(of_targets) else "",
    )


def _tokens_masked(run: RunData) -> str:
    """What training left out."""
    mask = run.section("recipe", "training", "mask")
    said = str(MaskConfig(special=bool(mask.get("special")), norm_above=mask.get("norm_above") or None))
    varies = any((run.training(variant).get("mask") or {}) != mask for variant in run.variants())
    own = "; variants have masks of their own" if varies else ""
    if run.rows():
        apart = as_number(run.section("corpus").get("special_tokens_left_out"))
        special = f"{words.whole(apart)} rows of activations.special_ids" if apart > 0 else ""
        said = words.listed([part for part in (special, said) if part])
        return f"{said} are not trained on{own}" if said else f"none: every row is trained on{own}"
    if not said:
        return f"none: the BOS at the start of each sequence is trained on and counted like any other{own}"
    return f"{said} are not trained on{own}"


def _dictionaries(run: RunData) -> list[tuple[str, str]]:
    """What members are: a row for all, or one for each variant where they differ in it."""
    said = {run.called(variant): _dictionary(sae) for variant in run.variants() if (sae := run.sae(variant))}
    if len(set(said.values())) <= 1:
        names = f"the variants {words.listed(list(said))} alike" if len(said) > 1 else ""
        return [("Dictionary", _joined(text, names)) for text in list(said.values())[:1]]
    return [(f"Dictionary {name}", text) for name, text in said.items()]


def _dictionary(sae: SAEConfig) -> str:
    """Shape, architecture, and what it is trained with."""
    weighted = "weighted by its norms" if sae.weigh_by_norm else "not weighted"
    by_l1 = sae.architecture in ("relu", "tanh_relu")
    free = f"decoder free, penalty {weighted}" if by_l1 else "decoder free"
    ends = words.listed([words.whole(end) for end in sae.all_prefixes])
    jumps = f"bandwidth {sae.bandwidth:g}, thresholds from {sae.initial_threshold:g}"
    return _joined(
        f"{words.amount(sae.features)} features",
        sae.architecture,
        "decoder rows of norm 1" if sae.has_unit_rows else free,
        f"prefixes of {ends}" if ends else "",
        f"{sae.random_prefixes} prefixes drawn anew" if sae.random_prefixes else "",
        jumps if sae.has_own_threshold else "",
        "encoder and decoder aligned" if sae.aligned else "",
        f"noise {sae.noise:g}" if sae.noise else "",
        f"AuxK {words.share(sae.auxk_coefficient)}" if sae.auxk_coefficient else "",
        f"Multi-TopK {sae.multi_k:g}" if sae.multi_k else "",
        f"pre-activation loss {sae.preactivation_coefficient:g}" if sae.preactivation_coefficient else "",
    )


def _count(data: dict[str, Any], key: str) -> str:
    value = as_number(data.get(key))
    return f"{words.amount(value)} {key.replace('train_', '')}" if math.isfinite(value) else ""


def _print(name: str, data: dict[str, Any]) -> str:
    value = str(data.get("fingerprint") or "")
    return f"{name} {value[:16]}" if value else ""


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))
