"""The arrays of a step on a GPU, kept from step to step: a tile's z, and room for what is active in a batch.

How much is active is known to the device alone. A step is given room for so many entries; where they are more it sets
`stop`, and every kernel behind that does nothing, nor does an update, until the host has read it, made more room and
taken the step again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unmix.kernels import gpu_near
from unmix.kernels.gpu_find import Margin
from unmix.kernels.gpu_launch import products
from unmix.kernels.gpu_noise import add_noise
from unmix.kernels.task import Noise, Weights

TILE_BYTES = 2 * 2**30  # of z, one (tile, F) array; the dense step has two
# Where a run has not measured it (`gpu_trial`): 4 products of 2·BDF operations at 50 TFLOP/s would cost there what 3
# gathers of 4·D bytes an entry would at 3 TB/s. An H100 was seen to have it at 0.049 (D 2,304, float32).
DENSE_ABOVE = 0.04  # of (B, F)
FIRST_ROOM = 0.01  # of (B, F), before it is known how much is active
SPARE = 1.25  # times what was needed


class Workspace:
    """The arrays for one number of features and one dtype. `near`: z is looked through in TF32 (`gpu_near`)."""

    def __init__(self, features: int, like: Tensor, near: bool = False) -> None:
        self.features, self.like, self.near = features, like, near
        self.tile = max(1, TILE_BYTES // (like.element_size() * features))
        self.version = 0
        """Another one once an array or a room has changed: what was recorded before reads and writes the old ones."""
        self.recording: Any = None
        """(the memory of recorded steps, the stream that they are recorded on, the newest of them)."""
        self._room: dict[str, int] = {}
        self._kept: dict[str, Tensor] = {}
        self._ends: dict[tuple[int, ...], Tensor] = {}

    def array(self, name: str, length: int, dtype: torch.dtype | None = None) -> Tensor:
        """The first numbers of an array; what is in it is left from before."""
        kept, dtype = self._kept.get(name), dtype or self.like.dtype
        if kept is None or len(kept) < length or kept.dtype != dtype:
            # a batch has some more tokens than the last: not every one is to need a new array
            self._kept[name] = kept = self.like.new_empty(length + length // 16, dtype=dtype)
            self.version += 1
        return kept[:length]

    def margin(self, x_BD: Tensor, weights: Weights, noise: Noise | None) -> Margin | None:
        """How far z of `encode` may be from what it is; None if it is that."""
        return gpu_near.margin(x_BD, weights) if self.near and noise is None else None

    def encode(
        self, x_TD: Tensor, weights: Weights, noise: Noise | None, first: int, near: Margin | None = None
    ) -> Tensor:
        """x W_enc (+ ε) of tokens from number `first` of the batch, or within a margin of it; without the bias."""
        z_TF = self.array("z", len(x_TD) * self.features).view(len(x_TD), self.features)
        with products(tf32=near is not None):
            torch.mm(x_TD, weights["W_enc"], out=z_TF)
        if noise:
            add_noise(z_TF, noise, first)
        return z_TF

    def room(self, kind: str, tokens: int, at_least: int = 0) -> int:
        """Entries that there is room for."""
        return max(1, at_least, self._room.get(kind, int(FIRST_ROOM * tokens * self.features)))

    def make_room(self, kind: str, needed: int) -> None:
        """For some more than were needed."""
        self._room[kind] = int(SPARE * needed) + 1
        self.version += 1

    def ends(self, prefixes: tuple[int, ...]) -> Tensor:
        """Where prefixes of the features end, (P,); made on the device, as a copy would wait for it."""
        prefixes = prefixes or (self.features,)
        if prefixes not in self._ends:
            parts = [torch.full((1,), end, dtype=torch.int32, device=self.like.device) for end in prefixes]
            self._ends = {prefixes: torch.cat(parts)}  # of those that are drawn anew for each step, no more than one
            self.version += 1
        return self._ends[prefixes]


def go(like: Tensor) -> Tensor:
    """A `stop` that is not set, (1,)."""
    return torch.zeros(1, dtype=torch.int32, device=like.device)
