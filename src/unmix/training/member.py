"""One member of a sweep: an SAE in training, its optimizer, its counts. Shares nothing with the other members."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmix.kernels.dispatch import Step
from unmix.kernels.reference import Sums, Weights
from unmix.sae.model import SAE, fold_scaling, new_sae


@dataclass
class Window:
    """Sums since the last line of metrics, in float64."""

    tokens: int = 0
    squared_error: float = 0.0
    penalty: float = 0.0
    active: float = 0.0
    loss: float = 0.0
    square_x: float = 0.0
    sum_x_D: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def add(self, x_BD: Tensor, sums: Sums, l1: float) -> None:
        """Count one batch."""
        self.tokens += len(x_BD)
        self.squared_error += sums.squared_error
        self.penalty += sums.penalty
        self.loss += sums.squared_error + l1 * sums.penalty
        self.active += sums.active_F.sum(dtype=torch.float64).item()
        self.square_x += x_BD.square().sum(dtype=torch.float64).item()
        self.sum_x_D = self.sum_x_D + x_BD.sum(0, dtype=torch.float64) if len(self.sum_x_D) else x_BD.double().sum(0)

    def metrics(self, features: int) -> dict[str, float | int]:
        """Means per token; explained variance 1 - Σ||e||² / Σ||x - μ||² with μ the mean over the window."""
        n = self.tokens
        variance = self.square_x - self.sum_x_D.square().sum().item() / n
        return {
            "loss": self.loss / n,
            "l2_reconstruction_loss": self.squared_error / n,
            "l1_penalty": self.penalty / n,
            "nonzero_proportion": self.active / n / features,
            "l0": self.active / n,
            "explained_variance": 1 - self.squared_error / variance if variance > 0 else math.nan,
            "over_tokens": n,
        }


class Member:
    """An SAE on scaled activations scale·x, trained by Adam with its gradient clipped on its own."""

    def __init__(
        self,
        name: str,
        hook: str,
        l1: float,
        sae: SAE,
        *,
        scale: float,
        decoder: str,
        betas: tuple[float, float],
        clip_norm: float | None,
    ) -> None:
        self.name, self.hook, self.l1, self.scale, self.clip_norm = name, hook, l1, scale, clip_norm
        self.unit_norm = decoder == "unit_norm"
        W_enc_DF = sae.W_enc.detach().T.contiguous().T  # a feature's encoder weights side by side in memory
        self.weights = Weights(W_enc_DF, sae.b_enc.detach(), sae.W_dec.detach(), sae.b_dec.detach())
        self.gradients = Weights(*(torch.zeros_like(w) for w in self.weights))
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        self.adam = torch.optim.Adam(list(self.weights), lr=0.0, betas=betas, eps=1e-8, fused=True)
        self.step = Step(sae.features, self.weights.b_enc_F)
        self.silent_F = torch.zeros(sae.features, dtype=torch.int64)
        """Tokens since each feature was last active."""
        self.tokens = 0
        self.window = Window()

    def update(self, x_BD: Tensor, lr: float, l1: float) -> None:
        """One step on a batch of raw activations."""
        x_BD = x_BD * self.scale if self.scale != 1 else x_BD
        sums = self.step(x_BD, self.weights, self.gradients, l1, weigh_by_norm=not self.unit_norm)
        if self.unit_norm:
            self._project_gradient()
        self._clip()
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        if self.unit_norm:
            self.weights.W_dec_FD.div_(self.weights.W_dec_FD.norm(dim=1, keepdim=True))
        self.tokens += len(x_BD)
        self.silent_F.add_(len(x_BD)).masked_fill_(sums.active_F > 0, 0)
        self.window.add(x_BD, sums, l1)

    def _project_gradient(self) -> None:
        """Take out the part along each decoder row: a step then moves on the sphere, to first order."""
        W_FD, g_FD = self.weights.W_dec_FD, self.gradients.W_dec_FD
        g_FD.addcmul_(W_FD, (g_FD * W_FD).sum(1, keepdim=True), value=-1)

    def _clip(self) -> None:
        # per member: a global norm would couple the members of a sweep
        if self.clip_norm is not None:
            norm = math.sqrt(sum(g.norm().item() ** 2 for g in self.gradients))
            if norm > self.clip_norm:
                for g in self.gradients:
                    g.mul_(self.clip_norm / norm)

    def metrics(self, dead_after_tokens: int) -> dict[str, Any]:
        """The means since the last call, which starts a new window."""
        known = self.tokens >= dead_after_tokens
        dead = (self.silent_F >= dead_after_tokens).double().mean().item() if known else None
        row = {**self.window.metrics(len(self.silent_F)), "dead_fraction": dead}
        self.window = Window()
        return row

    def sae(self) -> SAE:
        """The dictionary for raw activations, as it is now (a copy)."""
        return fold_scaling(SAE(*self.weights), self.scale)


def new_member(name: str, hook: str, l1: float, *, width: int, scale: float, recipe: Any) -> Member:
    """A member at its start: every member of a run starts from the same dictionary."""
    unit = recipe.sae.decoder == "unit_norm"
    sae = new_sae(width, recipe.sae.features, 1.0 if unit else recipe.sae.decoder_init_norm, recipe.training.seed)
    return Member(
        name,
        hook,
        l1,
        sae,
        scale=scale,
        decoder=recipe.sae.decoder,
        betas=recipe.training.betas,
        clip_norm=recipe.training.clip_norm,
    )
