"""The reference's step on a tile of tokens after another: memory that does not grow with the batch.

Autograd holds some twenty (tokens, F) arrays at once. A nonlinearity that looks at the whole batch, and AuxK, which
takes one token in several, are not cut up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import BatchTopK
from unmix.dictionary.terms import AuxK
from unmix.kernels import reference
from unmix.kernels.task import Sums, Task, Weights

Launch = Callable[..., Sums]
"""The call of `reference.launch`."""
TILE_BYTES = 16 * 2**20  # of one (tile, F) array


def tokens(features: int) -> int:
    """Of a tile."""
    return max(64, TILE_BYTES // (4 * features))


def step(
    x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, of_tile: Launch = reference.launch
) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    return launch(x_BD, y_BE, weights, gradients, task, of_tile).read()


def launch(
    x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, of_tile: Launch = reference.launch
) -> Sums:
    """The same without waiting for the device, where the sums stay. `of_tile`: how each tile is taken."""
    B, tile = len(x_BD), tokens(len(weights["b_enc"]))
    if tile >= B or isinstance(task.phi, BatchTopK) or task.term(AuxK):
        return of_tile(x_BD, y_BE, weights, gradients, task)
    part = {name: torch.empty_like(gradient) for name, gradient in gradients.items()}
    parts: list[Sums] = []
    for gradient in gradients.values():
        gradient.zero_()
    for first in range(0, B, tile):
        x_TD, y_TE = x_BD[first : first + tile], y_BE[first : first + tile]
        parts.append(of_tile(x_TD, y_TE, weights, part, task, first))
        for name, gradient in gradients.items():
            gradient.add_(part[name], alpha=len(x_TD) / B)
    return Sums(
        squared_error=sum(p.squared_error for p in parts),
        terms=tuple(map(sum, zip(*(p.terms for p in parts), strict=True))),
        penalty=sum(p.penalty for p in parts),
        active_F=torch.stack([p.active_F for p in parts]).sum(0),
        square_B=torch.cat([p.square_B for p in parts]),
    )
