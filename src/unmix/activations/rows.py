"""Activations that somebody has already, in a file or handed over in Python: no language model, no text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from unmix.activations import token_ids
from unmix.activations.arrays import Arrays, open_files
from unmix.activations.iterated import Iterated
from unmix.config import UNKNOWN, RunConfig
from unmix.errors import UserError

GIVEN = "given"
Rows = Arrays | Iterated


def rows_of(recipe: RunConfig, given: Mapping[str, Any] | Iterable[Any], device: torch.device, ids: Any = None) -> Rows:
    """The source of a run on hook -> x_RD (tensors, numpy arrays) with the token `ids` of the rows, if they are known;
    or on an iterable of x_BD or hook -> x_BD, or of pairs of either with ids_B."""
    if isinstance(given, Mapping):
        return Arrays(given, held_out=recipe.corpus.held_out_fraction, ids_R=ids, **_common(recipe, device))
    return Iterated(given, recipe.activations.hooks, **_common(recipe, device))


def open_rows(recipe: RunConfig, given: Rows | None, device: torch.device) -> Rows:
    """`given`, or the files that `activations.rows` names.

    Raises `UserError` if the rows were handed over in Python, and are not there now.
    """
    act = recipe.activations
    if act.rows != GIVEN:
        arrays = open_files(Path(str(act.rows)), act.hooks)
        ids = None if act.token_ids is None else token_ids.open_ids(act.token_ids)
        return Arrays(arrays, held_out=recipe.corpus.held_out_fraction, ids_R=ids, **_common(recipe, device))
    if given is None:
        raise UserError(
            f"the activations of run {recipe.name} were handed over in Python; call unmix.sweep(activations=…) with "
            "them again, under the same name"
        )
    return given


def facts_of_rows(recipe: RunConfig, source: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """(of the model, of the data): plain data for the manifest."""
    about: dict[str, Any] = {"source": str(recipe.activations.rows), "split": "train"}
    if isinstance(source, Arrays):
        about |= {"train_tokens": source.size, "held_out_tokens": len(source.held_out_R)}
        about |= {"special_tokens_left_out": source.left_out} if source.left_out else {}
    else:
        about |= {"held_out_tokens": source.chunk_tokens}
    return (
        {"name": recipe.model.name, "matmul": "fp32", "fingerprint": UNKNOWN},
        about | {"fingerprint": source.fingerprint, "rows": True},
    )


def said_of_rows(recipe: RunConfig, source: Rows) -> str:
    """A line: how many, and what of them is held out."""
    where = "activations that were handed over" if recipe.activations.rows == GIVEN else str(recipe.activations.rows)
    if isinstance(source, Iterated):
        return f"reading {where}; the first {source.chunk_tokens:,} are held out"
    special = f"; {source.left_out:,} of special tokens are left out" if source.left_out else ""
    return f"reading {source.size:,} of {where}; {len(source.held_out_R):,} more are held out{special}"


def _common(recipe: RunConfig, device: torch.device) -> dict[str, Any]:
    act = recipe.activations
    return {
        "batch_tokens": recipe.training.batch_tokens,
        "chunk_rows": act.chunk_sequences * act.sequence_length,
        "seed": act.seed,
        "device": device,
        "special_ids": act.special_ids,
    }
