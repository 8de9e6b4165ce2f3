"""Activations that somebody has already, in a file or handed over in Python: no language model, no text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from unmix.activations import token_ids
from unmix.activations.arrays import Arrays, named, open_files
from unmix.activations.iterated import Iterated
from unmix.config import GIVEN, UNKNOWN, RunConfig
from unmix.errors import UserError

Rows = Arrays | Iterated


def rows_of(
    recipe: RunConfig,
    given: Mapping[str, Any] | Iterable[Any],
    device: torch.device,
    ids: Any = None,
    targets: Mapping[str, Any] | Iterable[Any] | None = None,
) -> Rows:
    """The source of a run on hook -> x_RD (tensors, numpy arrays) with the token `ids` of the rows, if they are known;
    or on an iterable of x_BD or hook -> x_BD, or of pairs of either with ids_B. `targets`: y likewise, where it is not
    x.

    Raises `UserError` as `Arrays` and `Iterated` do, and for mappings of other hooks than the recipe's.
    """
    hooks = recipe.activations.hooks
    if targets is None and recipe.activations.targets is not None:
        asked = recipe.activations.targets
        raise UserError(f"activations.targets = {asked}, and none were handed over; give unmix.sweep(targets=…)")
    if not isinstance(given, Mapping):
        return Iterated(given, hooks, targets=targets, **_common(recipe, device))
    arrays = named(given)
    if absent := [hook for hook in hooks if hook not in arrays]:
        raise UserError(f"there are no activations of {absent[0]}; there are {', '.join(map(str, arrays))}")
    mine = {hook: arrays[hook] for hook in hooks}
    if targets is None:
        return Arrays(mine, ids_R=ids, **_common(recipe, device))
    if not isinstance(targets, Mapping):
        raise UserError(f"targets: {type(targets).__name__} beside hook -> rows; give hook -> rows too")
    wanted = named(targets)
    if set(wanted) != set(arrays):
        raise UserError(
            f"there are activations of {', '.join(map(str, arrays))} and targets of {', '.join(map(str, wanted))}; "
            "give the targets of each hook under the name of its activations"
        )
    return Arrays(mine, ids_R=ids, targets={hook: wanted[hook] for hook in mine}, **_common(recipe, device))


def open_rows(recipe: RunConfig, given: Rows | None, device: torch.device) -> Rows:
    """`given`, or the files that `activations.rows` names.

    Raises `UserError` if the rows were handed over in Python, and are not there now.
    """
    act = recipe.activations
    if act.rows != GIVEN:
        arrays = open_files(Path(str(act.rows)), act.hooks)
        ids = None if act.token_ids is None else token_ids.open_ids(act.token_ids)
        beside = None if act.targets is None else open_files(Path(act.targets), act.hooks, "activations.targets")
        return Arrays(arrays, ids_R=ids, targets=beside, **_common(recipe, device))
    if given is None:
        raise UserError(
            f"the activations of run {recipe.name} were handed over in Python; call unmix.sweep(activations=…"
            f"{', targets=…' if act.targets else ''}) with them again, under the same name: that evaluates the run, "
            "and with choice={'extend_to': STEPS} trains the choice further"
        )
    return given


def facts_of_rows(recipe: RunConfig, source: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """(of the model, of the data): plain data for the manifest."""
    about: dict[str, Any] = {"source": str(recipe.activations.rows), "split": "train"}
    about |= {"targets": recipe.activations.targets} if recipe.activations.targets else {}
    if isinstance(source, Arrays):
        about |= {"train_tokens": source.size, "held_out_tokens": len(source.held_out_R)}
        about |= {"special_tokens_left_out": source.left_out} if source.left_out else {}
    else:
        about |= {"train_tokens": source.size} if source.size < sys.maxsize else {}
        about |= {"held_out_tokens": source.held_out_rows}
    return (
        {"name": recipe.model.name, "matmul": "fp32", "fingerprint": UNKNOWN},
        about | {"fingerprint": source.fingerprint, "rows": True},
    )


def said_of_rows(recipe: RunConfig, source: Rows) -> str:
    """A line: how many, and what of them is held out."""
    where = "activations that were handed over" if recipe.activations.rows == GIVEN else str(recipe.activations.rows)
    if recipe.activations.targets is not None:
        where += " with their targets" if recipe.activations.targets == GIVEN else f" -> {recipe.activations.targets}"
    if isinstance(source, Iterated):
        count = f"{source.size:,} of " if source.size < sys.maxsize else ""
        return f"reading {count}{where}; the first {source.held_out_rows:,} are held out"
    special = f"; {source.left_out:,} of special tokens are left out" if source.left_out else ""
    return f"reading {source.size:,} of {where}; {len(source.held_out_R):,} more are held out{special}"


def _common(recipe: RunConfig, device: torch.device) -> dict[str, Any]:
    act = recipe.activations
    return {
        "batch_tokens": recipe.training.batch_tokens,
        "chunk_rows": act.chunk_sequences * act.sequence_length,
        "held_out": recipe.corpus.held_out_fraction,
        "seed": act.seed,
        "device": device,
        "special_ids": act.special_ids,
    }
