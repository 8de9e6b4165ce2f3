"""One member of a sweep: an SAE in training, its optimizer, its counts. Shares nothing with the other members."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import SAEConfig, TrainingConfig
from unmix.kernels.dispatch import Step
from unmix.kernels.noise import Noise, noise_key
from unmix.kernels.reference import Objective, Sums, Weights
from unmix.sae.model import SAE, fold_scaling, new_sae
from unmix.training.measure import Facts, kept_rows


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
        self.loss += sums.reconstruction + l1 * sums.penalty
        self.active += sums.active_F.sum(dtype=torch.float64).item()
        self.square_x += x_BD.square().sum(dtype=torch.float64).item()
        self.sum_x_D = self.sum_x_D + x_BD.sum(0, dtype=torch.float64) if len(self.sum_x_D) else x_BD.double().sum(0)

    def metrics(self, features: int) -> dict[str, float | int]:
        """Means per token; explained variance 1 - Σ||e||² / Σ||x - μ||² with μ the mean over the window."""
        n = self.tokens or math.nan  # a window whose every token was masked has no means
        variance = self.square_x - self.sum_x_D.square().sum().item() / n
        return {
            "loss": self.loss / n,
            "l2_reconstruction_loss": self.squared_error / n,
            "l1_penalty": self.penalty / n,
            "nonzero_proportion": self.active / n / features,
            "l0": self.active / n,
            "explained_variance": 1 - self.squared_error / variance if variance > 0 else math.nan,
            "over_tokens": self.tokens,
        }


@dataclass(frozen=True)
class Entry:
    """Which member: its place in the sweep."""

    name: str
    hook: str
    variant: str
    """Empty where the recipe has no variants."""
    l1: float
    """α, as the recipe gives it."""


class Member:
    """An SAE on activations as it sees them (masked, scaled), trained by Adam with its gradient clipped on its own."""

    def __init__(
        self, entry: Entry, sae: SAE, *, config: SAEConfig, training: TrainingConfig, facts: Facts, mask: Mask
    ) -> None:
        self.entry, self.start, self.config, self.training = entry, sae, config, training
        self.facts, self.mask = facts, mask
        W_enc_DF = sae.W_enc.detach().T.contiguous().T  # a feature's encoder weights side by side in memory
        self.weights = Weights(W_enc_DF, sae.b_enc.detach(), sae.W_dec.detach(), sae.b_dec.detach())
        self.gradients = Weights(*(torch.zeros_like(w) for w in self.weights))
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        self.adam = torch.optim.Adam(list(self.weights), lr=0.0, betas=training.betas, eps=1e-8, fused=True)
        self.step = Step(sae.features, self.weights.b_enc_F)
        self.silent_F = torch.zeros(sae.features, dtype=torch.int64)
        """Tokens since each feature was last active."""
        self.tokens = 0
        self.window = Window()

    def update(self, batch: Batch, step: int, lr: float, l1: float) -> None:
        """One step on a batch of raw activations; `l1` is the coefficient β at this step."""
        x_BD = self.sees(kept_rows(batch, self.entry.hook, self.mask))
        if not len(x_BD):
            return
        unit_norm = self.config.decoder == "unit_norm"
        sums = self.step(x_BD, self.weights, self.gradients, self._objective(step, l1))
        if unit_norm:
            self._project_gradient()
        self._clip()
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        if unit_norm:
            self.weights.W_dec_FD.div_(self.weights.W_dec_FD.norm(dim=1, keepdim=True))
        self.tokens += len(x_BD)
        self.silent_F.add_(len(x_BD)).masked_fill_(sums.active_F > 0, 0)
        self.window.add(x_BD, sums, l1)

    def sees(self, x_BD: Tensor) -> Tensor:
        """Raw activations in the scale that the SAE is trained in."""
        if self.start.per_token_scaling:
            return x_BD / self.start.token_scale(x_BD)
        return x_BD * self.facts.scale if self.facts.scale != 1 else x_BD

    def _objective(self, step: int, l1: float) -> Objective:
        sigma = self.config.noise
        noise = Noise(sigma, noise_key(self.training.seed, step)) if sigma else None
        return Objective(l1, self.config.nonlinearity, self.config.weigh_by_norm, self.training.norm_power, noise)

    def _project_gradient(self) -> None:
        """Take out the part along each decoder row: a step then moves on the sphere, to first order."""
        W_FD, g_FD = self.weights.W_dec_FD, self.gradients.W_dec_FD
        g_FD.addcmul_(W_FD, (g_FD * W_FD).sum(1, keepdim=True), value=-1)

    def _clip(self) -> None:
        # per member: a global norm would couple the members of a sweep
        most = self.training.clip_norm
        if most is not None:
            norm = math.sqrt(sum(g.norm().item() ** 2 for g in self.gradients))
            if norm > most:
                for g in self.gradients:
                    g.mul_(most / norm)

    def metrics(self, dead_after_tokens: int) -> dict[str, Any]:
        """The means since the last call, which starts a new window."""
        known = self.tokens >= dead_after_tokens
        dead = (self.silent_F >= dead_after_tokens).double().mean().item() if known else None
        row = {**self.window.metrics(len(self.silent_F)), "dead_fraction": dead}
        self.window = Window()
        return row

    def sae(self) -> SAE:
        """The dictionary for raw activations, as it is now (a copy)."""
        return fold_scaling(self.start.with_weights(*self.weights), self.facts.scale)


def new_member(
    entry: Entry,
    width: int,
    *,
    config: SAEConfig,
    training: TrainingConfig,
    facts: Facts,
    mask: Mask,
    head: Batch | None = None,
) -> Member:
    """A member at its start: members of the same shape and seed start from the same dictionary.

    `head`, the first chunk, is what `bias_init: mean` starts from; without it the bias waits for a checkpoint.
    """
    sae = new_sae(width, config.features, config.initial_row_norm, training.seed)
    sae.nonlinearity, sae.per_token_scaling = config.nonlinearity, config.scaling == "token"
    member = Member(entry, sae, config=config, training=training, facts=facts, mask=mask)
    if head is not None and config.bias_init == "mean":
        member.weights.b_dec_D.copy_(member.sees(kept_rows(head, entry.hook, mask)).mean(0, dtype=torch.float64))
    return member
