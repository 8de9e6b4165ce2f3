"""The memory a sweep needs at its peak, estimated before it begins, from the recipe and the widths alone.

    what the process has with the model loaded
    + the chunk of activations that is being trained on       rows x (4 bytes a number, 16 for id and position)
    + each member: weights, gradients, two moments            16 bytes a weight
    + training steps, which the members take in turn          tiles, x and W_enc rounded, and what is active
    + one checkpoint on its way to the disk                   its bytes, gathered before they are written

Nothing in it grows with the corpus or with the number of steps. Shards of a store are mapped, 4 GB of them at most:
their memory is the system's, which takes it back when it needs it, and is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec

import torch

from unmix.activations.stream import Source
from unmix.config import RunConfig, SAEConfig, TrainingConfig
from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, TopK
from unmix.dictionary.table import MORE, nonlinearity, objective
from unmix.dictionary.terms import AuxK, SquaredError
from unmix.kernels import cpu, dead, dense, dense_bf16, find, tiles
from unmix.kernels.dispatch import BORDER, HYSTERESIS, always_sparse, dense_numbers, is_plain
from unmix.kernels.task import Noise, Task
from unmix.training import revive
from unmix.training.member import Entry
from unmix.training.revive import AUXK_SHARE

AUTOGRAD = 20  # arrays of (tokens, F) that a step by autograd holds at once, as far as was seen


def chunk(source: Source, rows: int) -> int:
    """Bytes of a chunk of all hooks."""
    return rows * (4 * (sum(source.widths.values()) + sum(source.target_widths.values())) + 16)


def members(recipe: RunConfig, source: Source, entries: Sequence[Entry]) -> int:
    """Bytes of all members in training, of their steps, and of one checkpoint being written."""
    weights = [_weights(recipe, source, entry) for entry in entries]
    return 16 * sum(weights) + _scratch(recipe, source, entries) + 16 * max(weights)


def on_device(recipe: RunConfig, source: Source, entries: Sequence[Entry], rows: int, device: torch.device) -> int:
    """Bytes on an accelerator: the chunk, all members, and the arrays of the largest step; not the language model."""
    kernels = device.type == "cuda" and recipe.training.kernels != "portable" and find_spec("triton") is not None
    step = max(_step_on_device(recipe, source, entry, kernels) for entry in entries)
    return chunk(source, rows) + 16 * sum(_weights(recipe, source, entry) for entry in entries) + step


def _step_on_device(recipe: RunConfig, source: Source, entry: Entry, kernels: bool) -> int:
    """Bytes of a member's steps: by `kernels.gpu` where these are used and know them, else by the definition.

    A member may take both in turn (dense steps, or those that revive dead features), and the kernels' arrays are kept.
    """
    (D, F), (sae, training) = _shape(recipe, source, entry), recipe.of_variant(entry.variant)
    B, tasks = training.batch_tokens, _tasks(sae, training, D)
    found = 4 * B * D * (3 + len(sae.prefixes or ()))  # x, the error in double, and a gradient for each prefix
    if kernels:
        from unmix.kernels.gpu_covers import covers, dense_covers

        if any(covers(task) for task in tasks):
            found += _by_kernels(sae, training, D, F, entry.l0 or 1.0)
        # the others are not known by them, or not while much is active
        tasks = tuple(task for task in tasks if not (covers(task) and (always_sparse(task) or dense_covers(task))))
    return found + max((_by_definition(task, B, D, F) for task in tasks), default=0)


def _by_definition(task: Task, B: int, D: int, F: int) -> int:
    """Bytes of a step by autograd, on as many tokens at once as `tiles` takes, and of the gradients of a tile."""
    whole = task.term(AuxK) or isinstance(task.phi, BatchTopK)
    return AUTOGRAD * 4 * (B if whole else min(B, tiles.tokens(F))) * F + 16 * D * F


def _by_kernels(sae: SAEConfig, training: TrainingConfig, D: int, F: int, l0: float) -> int:
    """Bytes of what steps by `kernels.gpu` make, beside x and what has its shape."""
    from unmix.kernels.gpu_workspace import DENSE_ABOVE, TILE_BYTES

    B, phi = training.batch_tokens, nonlinearity(sae, l0)
    tile = 4 * F * (B if isinstance(phi, BatchTopK) else min(B, max(1, TILE_BYTES // (4 * F))))
    k = l0 * (MORE if sae.multi_k else 1)
    if isinstance(phi, TopK | AbsTopK | BatchTopK):
        group = min(64, max(1, F // (6 * math.ceil(k))))  # the largest of each group of features, at least and at most
        arrays, entries = 1 + 2 / group, 1.5 * k * B
    else:
        border = DENSE_ABOVE if training.border == "auto" else training.border
        arrays, entries = 2.5, min(1.0, HYSTERESIS * border) * B * F  # z, its gradient, and what is above 0
    beside = 8 * D * F if sae.multi_k or sae.aligned else 0
    if sae.auxk_coefficient or sae.preactivation_coefficient:
        beside += 16 * D * F + int(12 * AUXK_SHARE * B * F)
    return int(arrays * 17 / 16 * tile) + int(40 * entries) + beside


def _tasks(sae: SAEConfig, training: TrainingConfig, D: int) -> tuple[Task, ...]:
    """What steps of a member are for: the usual ones and, if it revives dead features, those that do."""
    phi, drawn = nonlinearity(sae), None
    if sae.random_prefixes:
        drawn = tuple(range(sae.features - sae.random_prefixes, sae.features + 1))
    terms = objective(sae, k=1.0, norm_power=training.norm_power, sparsity=1.0, prefixes=drawn)
    usual = Task(phi, terms, Noise(sae.noise, 0) if sae.noise else None)
    reviving = revive.terms(sae, phi, SquaredError(training.norm_power), D, torch.zeros(1, dtype=torch.int64))
    return (usual, usual._replace(objective=(*terms, *reviving))) if reviving else (usual,)


def _scratch(recipe: RunConfig, source: Source, entries: Sequence[Entry]) -> int:
    """Bytes of what the steps keep: dense ones for each shape, sparse ones once, for the largest."""
    B, sparse, by_autograd, by_auxk, more = recipe.training.batch_tokens, 0, 0, 0, 0
    dense_of: dict[tuple[str, int, int], int] = {}
    for entry in entries:
        (D, F), (sae, training) = _shape(recipe, source, entry), recipe.of_variant(entry.variant)
        numbers = dense_numbers("bf16" if training.dense == "bf16" else "fp32", nonlinearity(sae), bool(sae.noise))
        tasks, portable = _tasks(sae, training, D), training.kernels == "portable"
        for task in tasks:
            known = is_plain(task) or (always_sparse(task) and cpu.covers(task))
            if portable or not known:  # one member at a time
                by_autograd = max(by_autograd, _by_definition(task, B, D, F))
        if portable or not is_plain(tasks[0]):
            pass
        elif numbers == "bf16":
            dense_of[numbers, F, D] = 2 * max(dense_bf16.TILE_BYTES, 128 * F) + 6 * D * F
        else:
            dense_of[numbers, F, 0] = 2 * max(dense.TILE_BYTES, 256 * F)
        if sae.auxk_coefficient:  # rows of the dead features and their gradients, and z, f and dz of them
            by_auxk = max(by_auxk, 16 * D * F + int(12 * AUXK_SHARE * B * F))
        if sae.preactivation_coefficient:  # rows of the dead features, and a tile of their z
            by_auxk = max(by_auxk, 20 * D * F + 8 * dead.TILE)
        # the gradients of a second step, with more features active; what alignment makes of the weights
        more = max(more, 8 * D * F + 40 * int(MORE * (entry.l0 or 0) * B) if sae.multi_k else 0)
        more = max(more, 16 * D * F if sae.aligned else 0)
        border = BORDER if training.border == "auto" else training.border
        active = int(min(1, HYSTERESIS * border) * B * F)
        sparse = max(sparse, 3 * find.TILE_BYTES + 2 * D * F + 6 * B * D + 40 * active)
    return sum(dense_of.values()) + sparse + by_autograd + by_auxk + more


def _shape(recipe: RunConfig, source: Source, entry: Entry) -> tuple[int, int]:
    """(D, or E where that is more; F)."""
    D, hook = source.widths[entry.hook], entry.hook
    return max(D, source.target_widths.get(hook, D)), recipe.of_variant(entry.variant)[0].features


def _weights(recipe: RunConfig, source: Source, entry: Entry) -> int:
    D, (_, F) = source.widths[entry.hook], _shape(recipe, source, entry)
    E = source.target_widths.get(entry.hook, D)
    return (D + E) * F + F + E
