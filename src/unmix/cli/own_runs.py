"""The finished runs in a folder, as points of a scaling law: dictionaries like those of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unmix.cli.scaling_law import Point
from unmix.config import RunConfig
from unmix.errors import UserError
from unmix.evaluation.subject import recipe_of
from unmix.runlog import newest_checkpoints, read_json
from unmix.training.manifest import entries


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
    evaluation, newest = read_json(run / "evaluation.json") or {"hooks": []}, newest_checkpoints(run)
    members = {entry.name: entry for entry in entries(other)}
    for result in evaluation["hooks"]:
        for name, row in result["saes"].items():
            entry = members.get(name.removesuffix("-extended"))
            if (
                entry is None
                or result["hook"] != hook
                or _treatment(other, entry.variant) != _treatment(recipe, variant)
            ):
                continue
            step = int(newest[name].name.removeprefix("step-"))
            current = str(newest[name].relative_to(run)) == evaluation["checkpoints"][name]
            unexplained = 1 - float(row["explained_variance"])
            if current and step >= other.training.steps and unexplained > 0 and row["l0"] > 0:
                yield Point(run.name, step * other.training.batch_tokens, row["features"], row["l0"], unexplained)


def _kind(recipe: RunConfig) -> tuple[object, ...]:
    act = recipe.activations
    return recipe.model.name, recipe.corpus.source, recipe.corpus.field, act.sequence_length, act.rows, act.targets


def _treatment(recipe: RunConfig, variant: str) -> tuple[object, ...]:
    """What a dictionary is, but for its width, and on which tokens it is trained."""
    sae, training = recipe.of_variant(variant)
    return sae.model_dump(exclude={"features"}), training.mask, training.norm_power
