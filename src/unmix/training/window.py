"""What is summed over the steps from one line of metrics to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.terms import Objective, loss
from unmix.kernels.task import Number, Sums, wide
from unmix.training.numbers import read


@dataclass
class Window:
    """Sums since the last line of metrics, in float64; they may lie on a device."""

    tokens: int = 0
    squared_error: Number = 0.0
    penalty: Number = 0.0
    active: Number = 0.0
    loss: Number = 0.0
    raw_error: Number = 0.0
    """Σ||ŷ - y||², raw where each token has a scale of its own; else as the dictionary is trained to give y, as are the
    next two. Of an SAE y is x, by which they are called."""
    square_x: Number = 0.0
    sum_x_D: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def add(
        self, tokens: int, moments: tuple[Tensor, Tensor], sums: Sums, objective: Objective, raw_error: Number
    ) -> None:
        """Count one batch: Σ y² and Σ y of it, in the units of `raw_error`, see there.

        Nothing is changed in place, so that a copy keeps the sums it was made of.
        """
        square_D, sum_x_D = moments
        self.tokens += tokens
        self.squared_error = self.squared_error + sums.squared_error
        self.penalty = self.penalty + sums.penalty
        self.loss = self.loss + loss(objective, sums.terms)
        self.active = self.active + wide(sums.active_F).sum()
        self.raw_error = self.raw_error + raw_error
        self.square_x = self.square_x + square_D.sum()
        self.sum_x_D = self.sum_x_D + sum_x_D if len(self.sum_x_D) else sum_x_D

    def metrics(self, features: int) -> dict[str, Any]:
        """Means per token; explained variance 1 - Σ||e||² / Σ||y - μ||² of raw activations, μ the window's mean."""
        w, n = read(self), self.tokens or math.nan  # a window whose every token was masked has no means
        variance = w.square_x - w.sum_x_D.square().sum().item() / n
        return {
            "loss": w.loss / n,
            "l2_reconstruction_loss": w.squared_error / n,
            "l1_penalty": w.penalty / n,
            "nonzero_proportion": w.active / n / features,
            "l0": w.active / n,
            "explained_variance": 1 - w.raw_error / variance if variance > 0 else math.nan,
            "over_tokens": w.tokens,
        }
