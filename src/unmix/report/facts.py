"""What the report says in words and in small tables, drawn from a run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unmix.activations.outliers import from_facts
from unmix.config import MaskConfig
from unmix.report import words
from unmix.report.data import Choice, RunData


def summary(run: RunData) -> list[str]:
    """A few plain sentences: how many members, which was chosen and why, what it does, how long it took."""
    hooks, count = run.hooks(), len(run.members)
    model = run.section("model").get("name") or run.section("recipe", "model").get("name") or "the model"
    place = hooks[0] if len(hooks) == 1 else f"{len(hooks)} hooks"
    people = "One dictionary was" if count == 1 else f"{count} dictionaries were"
    lines = [f"{people} trained on {place} of {model}, {_coefficients(run)}."]
    planned = planned_steps(run)
    if run.step < planned:
        lines.append(f"The sweep is not finished: {words.whole(run.step)} of {words.whole(planned)} steps are done.")
    if not run.choices:
        lines.append("No member has been chosen yet.")
    for choice in run.choices:
        if (member := run.member(choice.member)) is None:
            lines.append(f"No member was chosen. {choice.reason}".strip())
            continue
        name = f"λ = {words.coefficient(member.l1)}" + (f" on {member.group}" if len(run.groups()) > 1 else "")
        end = member.whole().last()
        lines.append(f"The choice is {name}. {choice.reason}".strip())
        lines.append(
            f"After {words.amount(end['tokens'])} tokens it uses {words.number(end['l0'])} of "
            f"{words.whole(run.features)} features per token and explains {words.percent(end['explained_variance'])} "
            "of the variance (always predicting the mean explains none)."
        )
    lines.append(_time(run))
    return [line for line in lines if line]


def tiles(run: RunData) -> list[tuple[str, str]]:
    """The headline numbers as (value, name); of the chosen member if there is one."""
    member = run.member(run.choices[0].member) if len(run.choices) == 1 else None
    shown: list[tuple[str, str]] = []
    if member is not None:
        end = member.whole().last()
        shown = [
            (f"λ {words.coefficient(member.l1)}", "chosen penalty"),
            (words.number(end["l0"]), "active features per token"),
            (words.fixed(end["explained_variance"]), "explained variance"),
        ]
    else:
        shown = [(str(len(run.members)), "members"), (words.whole(run.step), "steps")]
    tokens = _furthest(run)["tokens"]
    return [
        *shown,
        (words.tick(float(f"{tokens:.3g}")) if math.isfinite(tokens) else words.MISSING, "tokens seen"),
        (words.duration(_seconds(run, "sweep") + _seconds(run, "extension")), "training time"),
    ]


def verdict(choice: Choice) -> str:
    """Whether the prediction came true, in one sentence; empty where nothing was predicted."""
    chosen = choice.forecast()
    if chosen is None:
        return ""
    band = f"{words.number(chosen.low)} to {words.number(chosen.high)}"
    said = (
        f"At step {words.whole(choice.at_step)}, {words.number(chosen.predicted_l0)} active features were predicted "
        f"for step {words.whole(choice.predict_step)}, with a band from {band}."
    )
    if not math.isfinite(choice.true_l0):
        return f"{said} What comes true is not known yet."
    where = "inside" if chosen.low <= choice.true_l0 <= chosen.high else "outside"
    came = f"{words.number(choice.true_l0)} came true at step {words.whole(choice.true_step)}, {where} the band."
    return f"{said} {came}"


def trained_on(run: RunData) -> list[tuple[str, str]]:
    """Rows of (name, value): model, corpus, tokens, epochs, time, machine, versions; what is unknown is left out."""
    model, corpus, machine = run.section("model"), run.section("corpus"), run.section("machine")
    sae = run.section("recipe", "sae")
    rows = [
        ("Model", _joined(model.get("name"), _count(model, "parameters"), _count(model, "layers"))),
        *((f"Hook {hook}", _hook(run, hook)) for hook in run.hooks()),
        ("Dictionary", _joined(_count(sae, "features"), sae.get("nonlinearity"), _decoder(sae), _variants(run))),
        (
            "Corpus",
            _joined(corpus.get("source"), _count(corpus, "train_documents"), _count(corpus, "train_tokens")),
        ),
        ("Split", "training stream: every number here is measured on what was trained on, not on held-out text"),
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


def averaged_over(run: RunData) -> str:
    """Over how many tokens the numbers of the table are averaged."""
    counts = sorted({member.sweep.at(run.step)["over_tokens"] for member in run.members})
    known = [count for count in counts if math.isfinite(count)]
    if not known:
        return "an unknown number of"
    return words.whole(known[0]) if len(known) == 1 else f"{words.whole(known[0])} to {words.whole(known[-1])}"


def planned_steps(run: RunData) -> float:
    return _float(run.section("recipe", "training").get("steps"))


def dead_after(run: RunData) -> float:
    return _float(run.section("recipe", "training").get("dead_after_tokens"))


def is_scaled(run: RunData) -> bool:
    return run.section("recipe", "sae").get("scaling") == "dataset"


def departs(run: RunData) -> bool:
    """Whether some member is trained on another loss than the plain one: relu, Σ f_i ||W_dec_i||, every token alike."""
    recipe = run.section("recipe")
    sae, training = run.section("recipe", "sae"), run.section("recipe", "training")
    return bool(
        recipe.get("variants")
        or sae.get("nonlinearity", "relu") != "relu"
        or sae.get("scaling") == "token"
        or training.get("norm_power")
        or training.get("l1_norm_power")
        or any(member.get("masked") for member in run.section("members").values())
    )


def l1_warmup(run: RunData) -> str:
    """The share of the steps over which λ rises, in percent; empty if it does not."""
    share = _float(run.section("recipe", "training").get("l1_warmup_fraction"))
    return f"{100 * share:g} %" if share > 0 else ""


def _coefficients(run: RunData) -> str:
    values = [words.coefficient(l1) for l1 in sorted({member.l1 for member in run.members})]
    if len(values) == 1:
        return f"with the penalty λ = {values[0]}"
    shown = values if len(values) <= 8 else [*values[:3], "…", *values[-3:]]
    return f"on the same batches with the penalties λ = {', '.join(shown[:-1])} and {shown[-1]}"


def _furthest(run: RunData) -> dict[str, float]:
    """The last row of the member that has seen most tokens."""
    ends = [member.whole().last() for member in run.members]
    return max(ends, key=lambda row: row["tokens"] if math.isfinite(row["tokens"]) else -1.0)


def _activations(run: RunData) -> str:
    """From the running model or from a store, in which dtype, and what products in bf16 changed."""
    corpus, model = run.section("corpus"), run.section("model")
    changes = ", ".join(
        f"{hook} by {words.percent(_float(by))}" for hook, by in (model.get("bf16_change") or {}).items()
    )
    change = f"which changes {changes} (||x' - x|| / ||x||, the median token of the first sequences)"
    products = f"; its matrix products are in bf16, {change}" if changes else ""
    if "store_dtype" in corpus:
        rows = words.whole(_float(corpus.get("store_rows")))
        return f"read from a store of {rows} rows in {corpus['store_dtype']}{products}"
    return f"from the running model, which computes in {model.get('dtype') or 'float32'}{products}"


def _arithmetic(run: RunData) -> str:
    """What of the training is not in float32, by variant where they differ."""
    training, sae = run.section("recipe", "training"), run.section("recipe", "sae")
    variants = run.section("recipe").get("variants") or {"": {}}
    said = {
        name: _numbers(training | (own.get("training") or {}), sae | (own.get("sae") or {}))
        for name, own in variants.items()
    }
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ". ".join(f"{name}: {text or 'all in float32'}" for name, text in said.items())


def _numbers(training: dict[str, Any], sae: dict[str, Any]) -> str:
    """The same of one variant; with noise nothing is rounded, and of a tanh no dense step."""
    if sae.get("noise"):
        return ""
    said = []
    if training.get("dense") == "bf16" and sae.get("nonlinearity") == "relu":
        said.append("while many features are active, the matrix products of a step are in bf16")
    if (found := training.get("selection")) in ("bf16", "int8"):
        said.append(f"once few features are active, a product in {found} finds which")
    return "; ".join([*said, "all else in float32"]) if said else ""


def _seconds(run: RunData, phase: str) -> float:
    """Training time of a phase, 0 if there was none."""
    rows = [member.sweep if phase == "sweep" else member.extension for member in run.members]
    known = np.concatenate([part["seconds"] for part in rows])
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else 0.0


def _tokens(run: RunData, phase: str) -> float:
    """Tokens that every member (sweep) or the extended one (extension) was trained on in a phase."""
    if phase == "sweep":
        return max((member.sweep.last()["tokens"] for member in run.members if len(member.sweep)), default=0.0)
    extended = next((member for member in run.members if len(member.extension)), None)
    if extended is None:
        return 0.0
    end, first = extended.extension.last(), extended.extension.at(0)
    per_step = end["tokens"] / end["step"] if end["step"] else 0.0
    start = extended.extended_from if extended.extended_from < first["step"] else first["step"]
    return end["tokens"] - start * per_step


def _rate(run: RunData, phase: str) -> str:
    seconds, tokens = _seconds(run, phase), _tokens(run, phase)
    return f"{words.number(tokens / seconds)} tokens/s" if seconds > 0 and tokens > 0 else ""


def _time(run: RunData) -> str:
    seconds = _seconds(run, "sweep")
    if not seconds:
        return ""
    together = f" for all {len(run.members)} at once" if len(run.members) > 1 else ""
    said = f"The sweep took {words.duration(seconds)}{together}"
    said += f", {_rate(run, 'sweep')}" if _rate(run, "sweep") else ""
    more = _seconds(run, "extension")
    return f"{said}; the extension {words.duration(more)}, {_rate(run, 'extension')}." if more else f"{said}."


def _phases(run: RunData) -> str:
    parts = [
        f"{phase} {_joined(words.duration(_seconds(run, phase)), _rate(run, phase))}"
        for phase in ("sweep", "extension")
        if _seconds(run, phase)
    ]
    return "; ".join(parts)


def _seen(run: RunData) -> str:
    sweep, furthest = _tokens(run, "sweep"), _furthest(run)["tokens"]
    if not math.isfinite(sweep):
        return ""
    said = f"{words.whole(sweep)} by every member in the sweep"
    return f"{said}, {words.whole(furthest)} by the extended one" if _tokens(run, "extension") else said


def _epochs(run: RunData) -> str:
    """How often what is read was read, masked tokens counted: the store, or the corpus."""
    read = _furthest(run)["step"] * _float(run.section("recipe", "training").get("batch_tokens"))
    corpus, what, unit = run.section("corpus"), "store", "activations"
    there = _float(corpus.get("store_rows"))
    if not math.isfinite(there):
        there, what, unit = _float(corpus.get("train_tokens")), "corpus", "training tokens"
    if not (math.isfinite(read) and there > 0):
        return ""
    return f"{read / there:.2f} times over the {what} ({words.whole(there)} {unit})"


def _hook(run: RunData, hook: str) -> str:
    facts = run.section("hooks", hook)
    width, norm = (_float(facts.get(key)) for key in ("width", "mean_norm"))
    scales = {_float(member.get("scale")) for member in run.section("members").values() if member.get("hook") == hook}
    scale = scales.pop() if len(scales) == 1 else _float(facts.get("scale"))
    return _joined(
        f"width {words.whole(width)}" if math.isfinite(width) else "",
        f"mean norm {words.number(norm)}" if math.isfinite(norm) else "",
        f"inputs times {words.number(scale)}" if math.isfinite(scale) else "",
        str(from_facts(outliers)) if (outliers := facts.get("outliers") or {}).get("tokens") else "",
    )


def _tokens_masked(run: RunData) -> str:
    """What training left out."""
    mask = run.section("recipe", "training", "mask")
    said = str(MaskConfig(special=bool(mask.get("special")), norm_above=mask.get("norm_above") or None))
    own = "; variants may have masks of their own" if run.section("recipe").get("variants") else ""
    if not said:
        return f"none: the BOS at the start of each sequence is trained on and counted like any other{own}"
    return f"{said} are not trained on{own}"


def _decoder(sae: dict[str, Any]) -> str:
    if sae.get("decoder") == "unit_norm":
        return "decoder rows of norm 1"
    if sae.get("decoder") != "free":
        return ""
    plain = sae.get("penalty", "auto") == "auto" and sae.get("nonlinearity") == "tanh_relu"
    weighted = not plain and sae.get("penalty") != "plain"
    return f"decoder free, penalty {'weighted by its norms' if weighted else 'not weighted'}"


def _variants(run: RunData) -> str:
    names = list(run.section("recipe").get("variants") or {})
    return f"or as the variants {', '.join(names)} have it" if names else ""


def _count(data: dict[str, Any], key: str) -> str:
    value = _float(data.get(key))
    return f"{words.amount(value)} {key.replace('train_', '')}" if math.isfinite(value) else ""


def _print(name: str, data: dict[str, Any]) -> str:
    value = str(data.get("fingerprint") or "")
    return f"{name} {value[:16]}" if value else ""


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
