"""One member of a sweep: an SAE in training, its optimizer, its counts. Shares nothing with the other members."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import SAEConfig, TrainingConfig
from unmix.dictionary.model import Dictionary, fold_scaling, new_sae
from unmix.errors import UserError
from unmix.kernels.dispatch import BORDER, Scratch, Step, adam
from unmix.kernels.forward import forward
from unmix.kernels.noise import noise_key
from unmix.kernels.reference import Adam, Noise, Objective, Sums, Weights
from unmix.training.measure import Facts, kept_rows, starting_rows
from unmix.training.window import Window

SKIPS_IN_A_ROW = 10  # so many batches cannot all be bad luck
SPIKE = 10.0  # times the mean squared error of the batches before it
SPIKE_AMONG = 16  # so many of them; at least a quarter has to be there
NOISY = ("loss", "l2_reconstruction_loss", "l1_penalty", "l0", "over_tokens")  # metrics that are also given with noise
NOISELESS_EVERY = 16  # of the tokens of a member with noise, one in so many is also passed without it


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
        self,
        entry: Entry,
        sae: Dictionary,
        *,
        config: SAEConfig,
        training: TrainingConfig,
        facts: Facts,
        mask: Mask,
        scratch: Scratch | None = None,
    ) -> None:
        self.entry, self.start, self.config, self.training = entry, sae, config, training
        self.facts, self.mask = facts, mask
        W_enc_DF = (
            sae.W_enc.detach().T.contiguous().T
        )  # a feature's encoder weights side by side: no copy where they are
        self.weights = Weights(W_enc_DF, sae.b_enc.detach(), sae.W_dec.detach(), sae.b_dec.detach())
        self.gradients = Weights(*(torch.zeros_like(w) for w in self.weights))
        self.first, self.second = (Weights(*(torch.zeros_like(w) for w in self.weights)) for _ in range(2))
        """Adam's running means of the gradient and of its square."""
        self.updates = 0
        # a run has decided these before it makes members (`precision.decide`)
        select = "fp32" if training.selection == "auto" else training.selection
        dense = "fp32" if training.dense == "auto" else training.dense
        self.step = Step(select, dense, scratch, BORDER if training.border == "auto" else training.border)
        self.silent_F = torch.zeros(sae.features, dtype=torch.int64)
        """Tokens since each feature was last active."""
        self.tokens = 0
        self.window = Window()
        self.noiseless = Window() if config.noise else None
        """Of a member with noise: a sample of the tokens without it, as the saved dictionary takes them."""
        self.recent: deque[float] = deque(maxlen=SPIKE_AMONG)
        """The squared error a token of the newest batches."""
        self.halted_at: int | None = None
        """The batch that halted it: its weights are those from before."""
        self.skipped = 0
        """Batches left out: their numbers were not finite, or they stood out (`on_spike: act`)."""
        self.in_a_row = 0

    def update(self, batch: Batch, step: int, lr: float, l1: float) -> str:
        """One step on a batch of raw activations; `l1` is the coefficient β at this step.

        Answers what was wrong with its numbers, or nothing. If the batch was left out for it, only the counts of what
        was left out have changed.
        """
        raw_BD = kept_rows(batch, self.entry.hook, self.mask)
        if not len(raw_BD) or self.halted_at is not None:
            return ""
        x_BD = self.sees(raw_BD)
        sparse, objective = self.step.sparse, self._objective(step, l1)
        sums = self.step(x_BD, self.weights, self.gradients, objective)
        spike = self._spike(len(x_BD), sums)
        wrong = _not_finite(x_BD, sums)
        if wrong or (spike and self.training.on_spike == "act"):
            self.step.sparse = sparse
            return self._leave_out(step, wrong or spike)
        self.in_a_row = 0
        self.updates += 1
        self.tokens += len(x_BD)
        self.recent.append(sums.squared_error / len(x_BD))
        self._count(self.window, raw_BD, x_BD, sums, l1)
        if self.noiseless is None:
            active_F = sums.active_F
        else:
            some_BD = x_BD[::NOISELESS_EVERY]
            plain = forward(some_BD, self.weights, objective)
            self._count(self.noiseless, raw_BD[::NOISELESS_EVERY], some_BD, plain, l1)
            active_F = plain.active_F
        self.silent_F.add_(len(x_BD)).masked_fill_(active_F > 0, 0)
        adam(self.weights, self.gradients, self.first, self.second, self._adam(lr, sums))
        return f"{self.entry.name}: {spike} in batch {step:,} of {self.entry.hook}" if spike else ""

    def _count(self, window: Window, raw_BD: Tensor, x_BD: Tensor, sums: Sums, l1: float) -> None:
        """Add a batch to a window; explained variance is of tokens at their own lengths."""
        if self.start.per_token_scaling:
            square_scale_B = self.start.token_scale(raw_BD).squeeze(1).double().square()
            window.add(raw_BD, sums, l1, (sums.square_B @ square_scale_B).item())
        else:
            window.add(x_BD, sums, l1, sums.squared_error)

    def sees(self, x_BD: Tensor) -> Tensor:
        """Raw activations in the scale that the SAE is trained in."""
        if self.start.per_token_scaling:
            return x_BD / self.start.token_scale(x_BD)
        return x_BD * self.facts.scale if self.facts.scale != 1 else x_BD

    def _objective(self, step: int, l1: float) -> Objective:
        sigma = self.config.noise
        noise = Noise(sigma, noise_key(self.training.seed, step)) if sigma else None
        return Objective(
            l1,
            phi=self.config.nonlinearity,
            weigh_by_norm=self.config.weigh_by_norm,
            norm_power=self.training.norm_power,
            noise=noise,
            unit_norm=self.config.decoder == "unit_norm",
        )

    def _adam(self, lr: float, sums: Sums) -> Adam:
        # clipped per member: a global norm would couple the members of a sweep
        norm, most = math.sqrt(sums.gradient_square), self.training.clip_norm
        shrink = most / norm if most is not None and norm > most else 1.0
        return Adam(lr, self.updates, self.training.betas, shrink, self.config.decoder == "unit_norm")

    def _spike(self, tokens: int, sums: Sums) -> str:
        """Whether the batch's squared error stands out; the batches that say from what are in the checkpoint."""
        if len(self.recent) < SPIKE_AMONG // 4:
            return ""
        times = (sums.squared_error / tokens) / (fmean(self.recent) or math.inf)
        return f"a squared error {times:.3g} times the mean of the batches before it" if times > SPIKE else ""

    def _leave_out(self, step: int, wrong: str) -> str:
        """Skip the batch or halt, as the recipe says. Raises `UserError` if it says `stop`."""
        name, policy = self.entry.name, self.training.on_nonfinite
        found = f"{name}: {wrong} in batch {step:,} of {self.entry.hook}"
        if policy == "stop":
            raise UserError(
                f"{found}; the last checkpoint is from before. Lower training.lr, or give --training.on_nonfinite skip "
                "(leave the batch out) or halt (leave the member) to go on"
            )
        self.skipped += 1
        self.in_a_row += 1
        if policy == "skip" and self.in_a_row < SKIPS_IN_A_ROW:
            return f"{found}; left out"
        self.halted_at = step
        after = f" after {self.in_a_row} in a row" if policy == "skip" else ""
        return f"{found}; {name} is halted{after} at its last good weights, the other members go on"

    def metrics(self, dead_after_tokens: int) -> dict[str, Any]:
        """The means since the last call, which starts a new window: of the dictionary as it would be saved.

        With noise they are over the sample without it, and those of training are called `noisy_…`.
        """
        known = self.tokens >= dead_after_tokens
        dead = (self.silent_F >= dead_after_tokens).double().mean().item() if known else None
        row = {**self.window.metrics(len(self.silent_F)), "dead_fraction": dead}
        if self.noiseless is not None:
            noisy = {f"noisy_{key}": row[key] for key in NOISY}
            row |= self.noiseless.metrics(len(self.silent_F)) | noisy
            self.noiseless = Window()
        if self.skipped:
            row["skipped_batches"] = self.skipped
        if self.halted_at is not None:
            row["halted_at"] = self.halted_at
        self.window = Window()
        return row

    def sae(self) -> Dictionary:
        """The dictionary for raw activations, as it is now (a copy)."""
        return fold_scaling(self.start.with_weights(*self.weights), self.facts.scale)


def _not_finite(x_BD: Tensor, sums: Sums) -> str:
    """Which of a step's numbers are not; the activations are looked through only if their sums say so."""
    if all(map(math.isfinite, (sums.squared_error, sums.reconstruction, sums.penalty, sums.gradient_square))):
        return ""
    if not x_BD.isfinite().all():
        return "an activation is not finite"
    finite_loss = math.isfinite(sums.reconstruction) and math.isfinite(sums.penalty)
    return "the gradient is not finite" if finite_loss else "the loss is not finite"


def new_member(
    entry: Entry,
    width: int,
    *,
    config: SAEConfig,
    training: TrainingConfig,
    facts: Facts,
    mask: Mask,
    head: Batch | None = None,
    scratch: Scratch | None = None,
) -> Member:
    """A member at its start: members of the same shape and seed start from the same dictionary.

    `head`, the first chunk, is what `bias_init: mean` starts from; without it the bias waits for a checkpoint.
    `scratch` is the memory of the step; members that take theirs in turn may share it.
    """
    sae = new_sae(width, config.features, config.initial_row_norm, training.seed)
    sae.nonlinearity, sae.per_token_scaling = config.nonlinearity, config.scaling == "token"
    sae.longest = mask.longest
    member = Member(entry, sae, config=config, training=training, facts=facts, mask=mask, scratch=scratch)
    if head is not None and config.bias_init == "mean":
        x_KD = member.sees(starting_rows(head, entry.hook, mask, facts.median_norm))
        member.weights.b_dec_D.copy_(x_KD.mean(0, dtype=torch.float64))
    return member
