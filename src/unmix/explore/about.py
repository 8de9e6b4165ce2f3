"""What the explored folder says of its members: what they were asked for, how long they trained, what they cost.

Not part of the store's inputs: no value depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.config import load_resolved
from unmix.dictionary.files import metadata
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.command import FILE as EVALUATION
from unmix.evaluation.subject import Subject
from unmix.explore.rounding import short
from unmix.runlog import read_choices, read_json, read_manifest, read_metrics


def members_about(folder: Path, subject: Subject) -> dict[str, dict[str, Any]]:
    """name -> architecture, asked, step, training_tokens, delta_ce, delta_ce_se; null where the folder does not say."""
    architectures, effects = _architectures(folder), _effects(folder, subject)
    found = {}
    for saes in subject.saes.values():
        for name, sae in saes.items():
            facts = metadata(folder / subject.checkpoints[name])
            found[name] = {
                "architecture": architectures.get(name.removesuffix("-extended"), sae.nonlinearity.name),
                "asked": _asked(facts),
                "step": facts.get("step"),
                "training_tokens": facts.get("training_tokens"),
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


def _architectures(folder: Path) -> dict[str, str]:
    """member -> the architecture that it was trained as: a batchtopk is saved as a jumprelu."""
    if not (folder / "run.yaml").exists():
        return {}
    recipe = load_resolved(read_manifest(folder / "run.yaml")["recipe"], folder / "run.yaml")
    variants = {row["member"]: row.get("variant") or "" for row in read_metrics(folder / "metrics.jsonl")}
    return {
        member: recipe.of_variant(variant)[0].architecture
        for member, variant in variants.items()
        if not variant or variant in recipe.variants
    }


def _effects(folder: Path, subject: Subject) -> dict[str, dict[str, float | None]]:
    """member -> ΔCE of the folder's evaluation, where that is of these checkpoints."""
    try:
        found = read_json(folder / EVALUATION) or {}
    except UserError:  # damaged: `evaluate` says so, and the numbers are not known here
        return {}
    checkpoints = found.get("checkpoints", {})
    return {
        name: {"delta_ce": _number(row, "delta_ce"), "delta_ce_se": _number(row, "delta_ce_standard_error")}
        for result in found.get("hooks", [])
        for name, row in result.get("saes", {}).items()
        if checkpoints.get(name) == subject.checkpoints.get(name)
    }


def _number(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return short(float(value)) if isinstance(value, (int, float)) else None
