"""What the explored folder says of its members: what they were asked for, how long they trained, what they cost.

Not part of the store's inputs: no value depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.config import SAEConfig, TrainingConfig, load_resolved
from unmix.dictionary.files import metadata
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.command import FILE as EVALUATION
from unmix.evaluation.subject import Subject
from unmix.explore.rounding import short
from unmix.runlog import read_choices, read_json, read_manifest, read_metrics


def members_about(folder: Path, subject: Subject) -> dict[str, dict[str, Any]]:
    """name -> architecture, asked, step, training_tokens, seed, delta_ce, delta_ce_se; null where it is not known."""
    architectures, seeds, effects = _architectures(folder), seeds_of(folder), _effects(folder, subject)
    found = {}
    for saes in subject.saes.values():
        for name, sae in saes.items():
            facts = metadata(folder / subject.checkpoints[name])
            found[name] = {
                "architecture": architectures.get(name.removesuffix("-extended"), sae.nonlinearity.name),
                "asked": _asked(facts),
                "step": facts.get("step"),
                "training_tokens": facts.get("training_tokens"),
                "seed": seeds.get(name.removesuffix("-extended")),
                **effects.get(name, {"delta_ce": None, "delta_ce_se": None}),
            }
    return found


def chosen_members(folder: Path, saes: dict[str, dict[str, Dictionary]]) -> list[str]:
    """The members that the run's choice names, one a hook: the extended one where there is one."""
    there = {name for members in saes.values() for name in members}
    named = [choice.get("member") for choice in read_choices(folder)]
    extended = [f"{name}-extended" if f"{name}-extended" in there else name for name in named if name]
    return [name for name in extended if name in there]


def _asked(facts: dict[str, Any]) -> dict[str, float]:
    return {key: facts[name] for key, name in (("l0", "target_l0"), ("l1", "l1")) if facts.get(name) is not None}


def seeds_of(run: Path) -> dict[str, int]:
    """member -> the seed that it was trained with; empty if the folder is no run."""
    return {member: training.seed for member, (_, training) in _sections(run).items()}


def _architectures(folder: Path) -> dict[str, str]:
    """member -> the architecture that it was trained as: a batchtopk is saved as a jumprelu."""
    return {member: sae.architecture for member, (sae, _) in _sections(folder).items()}


def _sections(folder: Path) -> dict[str, tuple[SAEConfig, TrainingConfig]]:
    """member -> the sections of the recipe that it was trained by, those of its variant."""
    if not (folder / "run.yaml").exists():
        return {}
    recipe = load_resolved(read_manifest(folder / "run.yaml")["recipe"], folder / "run.yaml")
    variants = {row["member"]: row.get("variant") or "" for row in read_metrics(folder / "metrics.jsonl")}
    return {
        member: recipe.of_variant(variant)
        for member, variant in variants.items()
        if not variant or variant in recipe.variants
    }


def _effects(folder: Path, subject: Subject) -> dict[str, dict[str, float | None]]:
    """member -> ΔCE of the folder's evaluation, where that is of these checkpoints at their hooks, on the model and
    the corpus that are explored."""
    try:
        found = read_json(folder / EVALUATION) or {}
    except UserError:  # damaged: `evaluate` says so, and the numbers are not known here
        return {}
    here = {"model": subject.model.name, "corpus": subject.corpus.source}
    if any(found.get(key, value) != value for key, value in here.items()):
        return {}
    checkpoints = found.get("checkpoints", {})
    return {
        name: {"delta_ce": _number(row, "delta_ce"), "delta_ce_se": _number(row, "delta_ce_standard_error")}
        for result in found.get("hooks", [])
        for name, row in result.get("saes", {}).items()
        if checkpoints.get(name) == subject.checkpoints.get(name)
        and name in subject.saes.get(result["hook"].partition(" -> ")[0], {})  # a transcoder's names both
    }


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return short(float(value)) if isinstance(value, (int, float)) else None
