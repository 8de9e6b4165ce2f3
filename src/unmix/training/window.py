"""What is summed over the steps from one line of metrics to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmix.dictionary.terms import Objective, loss
from unmix.kernels.task import Sums, wide


@dataclass
class Window:
    """Sums since the last line of metrics, in float64."""

    tokens: int = 0
    squared_error: float = 0.0
    penalty: float = 0.0
    active: float = 0.0
    loss: float = 0.0
    raw_error: float = 0.0
    """Σ||x̂ - x||², raw where each token has a scale of its own; else as the SAE sees them, as are the next two."""
    square_x: float = 0.0
    sum_x_D: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def add(
        self, tokens: int, moments: tuple[Tensor, Tensor], sums: Sums, objective: Objective, raw_error: float
    ) -> None:
        """Count one batch: Σ x² and Σ x of it, in the units of `raw_error`, see there."""
        self.tokens += tokens
        self.squared_error += sums.squared_error
        self.penalty += sums.penalty
        self.loss += loss(objective, sums.terms)
        self.active += wide(sums.active_F).sum().item()
        self.raw_error += raw_error
        square_D, sum_x_D = (moment.cpu().double() for moment in moments)
        self.square_x += square_D.sum().item()
        self.sum_x_D = self.sum_x_D + sum_x_D if len(self.sum_x_D) else sum_x_D

    def metrics(self, features: int) -> dict[str, float | int]:
        """Means per token; explained variance 1 - Σ||e||² / Σ||x - μ||² of raw activations, μ the window's mean."""
        n = self.tokens or math.nan  # a window whose every token was masked has no means
        variance = self.square_x - self.sum_x_D.square().sum().item() / n
        return {
            "loss": self.loss / n,
            "l2_reconstruction_loss": self.squared_error / n,
            "l1_penalty": self.penalty / n,
            "nonzero_proportion": self.active / n / features,
            "l0": self.active / n,
            "explained_variance": 1 - self.raw_error / variance if variance > 0 else math.nan,
            "over_tokens": self.tokens,
        }
