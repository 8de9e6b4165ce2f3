"""The finished runs in a folder, as points of a scaling law: dictionaries like those of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unmix.cli.scaling_law import Point
from unmix.config import RunConfig
from unmix.errors import UserError
from unmix.evaluation.subject import recipe_of, tightest, trained_mask
from unmix.runlog import newest_checkpoints, read_evaluation, read_metrics
from unmix.training.manifest import entries

_MASK = re.compile(
    r"(?:^|; )(special tokens)?(?: and )?(?:tokens (?:longer than|with norms above) (\S+) times the median(?: norm)?)? "
    r"left out of fidelity"
)
"""A mask as an evaluation tells it, in the words of this version and of earlier ones."""


def points_like(recipe: RunConfig, hook: str, variant: str, runs: Path) -> tuple[list[Point], dict[str, str]]:
    """(every evaluated dictionary of the finished runs in `runs` that differs from those of the recipe in tokens,
    features, L0 and learning rate only: model, corpus, hook, architecture and mask are the same; folder -> why, of
    those whose files cannot be read).
    """
    found: list[Point] = []
    unread: dict[str, str] = {}
    for path in sorted(runs.glob("*/evaluation.json")):
        try:
            found += _points(recipe, hook, variant, path.parent)
        except UserError as error:
            unread[path.parent.name] = str(error)
        except (KeyError, TypeError, ValueError) as error:
            unread[path.parent.name] = f"{path} is damaged, or of another version ({type(error).__name__}: {error})"
    return found, unread


def _points(recipe: RunConfig, hook: str, variant: str, run: Path) -> Iterator[Point]:
    other = recipe_of(run)
    if _kind(other) != _kind(recipe):
        return
    evaluation, newest = read_evaluation(run) or {}, newest_checkpoints(run)
    if not _on_its_own(evaluation, other):
        return
    members, halted = {entry.name: entry for entry in entries(other)}, _halted(run)
    for result in evaluation["hooks"]:
        for name, row in result["saes"].items():
            entry = members.get(name.removesuffix("-extended"))
            if (
                entry is None
                or name in halted
                or result["hook"] != hook
                or not _left_out(result, recipe)
                or _treatment(other, entry.variant) != _treatment(recipe, variant)
            ):
                continue
            step = int(newest[name].name.removeprefix("step-"))
            current = str(newest[name].relative_to(run)) == evaluation["checkpoints"][name]
            unexplained = 1 - float(row["explained_variance"])
            if current and step >= other.training.steps and unexplained > 0 and row["l0"] > 0:
                yield Point(run.name, step * other.training.batch_tokens, row["features"], row["l0"], unexplained)


def _halted(run: Path) -> set[str]:
    """The members that numbers gone wrong halted: their checkpoints are of later steps than they were trained to."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "halted_at" in row]
    return {row["member"] + "-extended" * (row["phase"] == "extend") for row in rows}


def _on_its_own(evaluation: dict[str, Any], run: RunConfig) -> bool:
    """Whether a run was evaluated on the model and the corpus, or the rows, that it was trained on."""
    corpus = run.corpus.source if run.activations.rows is None else run.activations.rows
    used = evaluation["corpus"], evaluation["model"], evaluation.get("corpus_keys")
    return used == (corpus, run.model.name, None)


def _left_out(result: dict[str, Any], recipe: RunConfig) -> bool:
    """Whether an evaluation left out what the recipe's own will."""
    mask = trained_mask(recipe)
    if recipe.activations.rows is not None:  # where no token is known to be special
        mask = tightest([mask.model_copy(update={"special": False})])
    found = _MASK.search(result["mask"])
    above = None if mask.norm_above is None else f"{mask.norm_above:g}"
    return found is not None and (bool(found[1]), found[2]) == (mask.special, above)


def _kind(recipe: RunConfig) -> tuple[object, ...]:
    """What activations depend on, but for the revision of a dataset."""
    act, own = recipe.activations, {"held_out_fraction", "max_tokens", "revision", "sources"}
    parts = [(share, part.model_dump(exclude=own)) for share, part in recipe.corpus.parts]
    return recipe.model.name, parts, act.sequence_length, act.rows, act.targets, act.special_ids


def _treatment(recipe: RunConfig, variant: str) -> tuple[object, ...]:
    """What a dictionary is, but for its width, and on which tokens it is trained."""
    sae, training = recipe.of_variant(variant)
    same_width = 1  # what a rate that is left open comes to is compared, at one width
    kind = sae.model_dump(exclude={"features", "bias_rate"}), sae.bias_rate_at(same_width)
    return *kind, training.mask, training.norm_power
