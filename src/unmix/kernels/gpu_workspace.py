"""The encoder's product of a tile of tokens, in memory that is kept from step to step."""

from __future__ import annotations

import torch
from torch import Tensor

from unmix.kernels.gpu_noise import add_noise
from unmix.kernels.task import Noise, Weights

TILE_BYTES = 2 * 2**30  # of z, one (tile, F) array; the dense step has two
# From data-sheet figures, not measured: where 4 products of 2·BDF operations at 50 TFLOP/s would cost what 4 gathers of
# 4·D bytes an entry would at 3 TB/s.
DENSE_ABOVE = 0.03  # of (B, F)


class Workspace:
    """The (tile, F) array of one shape, made once; a step is dense where more than `dense_above` of it is active."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.tile = max(1, TILE_BYTES // (like.element_size() * features))
        self.dense_above = DENSE_ABOVE
        self.z = like.new_empty(0, features)

    def rows(self, tokens: int) -> Tensor:
        """Room for z of so many tokens, at most a tile; what is in it is left from before."""
        if len(self.z) < tokens:
            self.z = self.z.new_empty(min(tokens, self.tile), self.z.shape[1])
        return self.z[:tokens]

    def encode(self, x_BD: Tensor, weights: Weights, noise: Noise | None, first: int) -> Tensor:
        """x W_enc (+ ε) of the tile that starts at token `first`; the bias is left to its readers."""
        x_TD = x_BD[first : first + self.tile]
        z_TF = torch.mm(x_TD, weights["W_enc"], out=self.rows(len(x_TD)))
        if noise:
            add_noise(z_TF, noise, first)
        return z_TF
