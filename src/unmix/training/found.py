"""What a batch came to, before anything is made of it: whether its numbers are right, and whether it stands out."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from unmix.activations.stream import Pair
from unmix.kernels.task import Number, Sums
from unmix.training.numbers import mean, where

SPIKE = 10.0  # times the mean squared error of the batches before it
SPIKE_AMONG = 16  # so many of them; at least a quarter has to be there


class Found(NamedTuple):
    """Of one batch; its numbers may lie on a device until they are read."""

    tokens: int
    sums: Sums
    square: Number
    """Σ g² over all gradients."""
    times: Number
    """Its squared error over the mean of the batches before it; 0 where those are too few."""

    @property
    def error(self) -> Number:
        """The squared error a token."""
        return self.sums.squared_error / self.tokens

    @property
    def spike(self) -> str:
        """That it stands out, if it does."""
        stands_out = self.times > SPIKE
        return f"a squared error {self.times:.3g} times the mean of the batches before it" if stands_out else ""

    def wrong(self, seen: Pair, on_spike: str) -> str:
        """Why it is left out, if it is; the activations are looked through only if their sums say so."""
        if all(map(math.isfinite, (self.sums.squared_error, *self.sums.terms, self.square))):
            return self.spike if on_spike == "act" else ""
        if not seen.x_BD.isfinite().all():
            return "an activation is not finite"
        if not seen.y_BE.isfinite().all():
            return "a target is not finite"
        finite_loss = all(map(math.isfinite, self.sums.terms))
        return "the gradient is not finite" if finite_loss else "the loss is not finite"

    def is_wrong(self, on_spike: str) -> Tensor:
        """Whether `wrong` will say so, as a bool on the device, ()."""
        numbers = (self.sums.squared_error, *self.sums.terms, self.square)
        wrong = ~torch.stack([x for x in numbers if isinstance(x, Tensor)]).isfinite().all()
        return wrong | (self.times > SPIKE) if on_spike == "act" else wrong


def times(error: Number, recent: Collection[Number]) -> Number:
    """This squared error a token over the mean of the recent ones; 0 where they are too few."""
    if len(recent) < SPIKE_AMONG // 4:
        return 0.0
    before = mean(recent)
    return error / where(before == 0, math.inf, before)
