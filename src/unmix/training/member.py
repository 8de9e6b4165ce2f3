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
from unmix.dictionary.model import Dictionary, fold_centre, fold_scaling, new_dictionary
from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK
from unmix.dictionary.table import counts, nonlinearity, objective
from unmix.dictionary.terms import AuxK, Objective, PreActivation
from unmix.errors import UserError
from unmix.kernels import aligned, reference
from unmix.kernels.dispatch import Scratch, Step
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Adam, Noise, Sums, Task, Weights, wide
from unmix.training.controller import Controller, first_coefficient
from unmix.training.measure import Facts, kept_rows, starting_rows
from unmix.training.prefixes import draw
from unmix.training.resample import resample
from unmix.training.window import Window

CPU = torch.device("cpu")
SKIPS_IN_A_ROW = 10  # so many batches cannot all be bad luck
SPIKE = 10.0  # times the mean squared error of the batches before it
SPIKE_AMONG = 16  # so many of them; at least a quarter has to be there
SAMPLED_NOISY, SAMPLED = 16, 64
"""Where training takes tokens otherwise, one in so many is also taken as the saved dictionary takes it."""
IN_TRAINING = ("loss", "l2_reconstruction_loss", "l1_penalty", "l0", "over_tokens")
"""Metrics that are then given of training too."""
RARE = 10  # a feature is rare if it was silent for one such part of the tokens after which it is dead
AUXK_SHARE = 0.1  # of the features: of so many dead ones AuxK looks at every token, of more at fewer


@dataclass(frozen=True)
class Entry:
    """Which member: its place in the sweep."""

    name: str
    hook: str
    variant: str
    """Empty where the recipe has no variants."""
    l1: float | None
    """α, as the recipe gives it."""
    l0: float | None = None
    """Active features a token that it is asked for, in place of α."""


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
        device: torch.device = CPU,
    ) -> None:
        self.entry, self.start, self.config, self.training = entry, sae, config, training
        self.facts, self.mask = facts, mask
        # a feature's encoder weights side by side: no copy where they are
        own = sae.weights | {"W_enc": sae.W_enc.detach().T.contiguous().T}
        self.weights: Weights = {name: w.to(device) for name, w in own.items()}
        self.gradients, self.first, self.second = (
            {name: torch.zeros_like(w) for name, w in self.weights.items()} for _ in range(3)
        )
        """Adam's running means of the gradient and of its square."""
        self.centre_D = torch.zeros(sae.width, device=device) if config.centre == "mean" else None
        """c, in the scale that the SAE is trained in; fixed from the start."""
        self.updates = 0
        # a run has decided these before it makes members (`precision.decide`)
        select = "fp32" if training.selection == "auto" else training.selection
        dense = "fp32" if training.dense == "auto" else training.dense
        border = None if training.border == "auto" else training.border
        self.step = Step(select, dense, scratch, border, portable=training.kernels == "portable")
        self.silent_F = torch.zeros(sae.features, dtype=torch.int64, device=device)
        """Tokens since each feature was last active."""
        self.tokens = 0
        self.controller = _controller(entry, config, training, facts)
        self.threshold = 0.0
        """Running mean of the least contribution that a batchtopk keeps: the saved dictionary's threshold."""
        self.window = Window()
        self.as_saved = Window() if config.noise or isinstance(sae.nonlinearity, BatchTopK) else None
        """A sample of the tokens as the saved dictionary takes them, where training takes them otherwise."""
        self._sampled = SAMPLED_NOISY if config.noise else SAMPLED
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
        sparse, task = self.step.sparse, self._task(step, l1)
        sums = self.step(x_BD, x_BD, self.weights, self.gradients, task)
        spike = self._spike(len(x_BD), sums)
        if self.config.aligned:
            aligned.tangent(self.weights, self.gradients)
        square = self.step.finish(self.weights, self.gradients, task.unit_norm)
        wrong = _not_finite(x_BD, sums, square)
        if wrong or (spike and self.training.on_spike == "act"):
            self.step.sparse = sparse
            return self._leave_out(step, wrong or spike)
        self.in_a_row = 0
        self.updates += 1
        self.tokens += len(x_BD)
        self.recent.append(sums.squared_error / len(x_BD))
        self._count(self.window, raw_BD, x_BD, sums, task)
        active_F = sums.active_F
        if sums.threshold is not None:
            self.threshold += (sums.threshold - self.threshold) / _averaged(self.updates)
        if self.as_saved is not None:
            some_BD = x_BD[:: self._sampled]
            plain = reference.alone(some_BD, some_BD, self.weights, task, self.threshold)
            self._count(self.as_saved, raw_BD[:: self._sampled], some_BD, plain, task)
            active_F = plain.active_F if task.noise else active_F
        if self.controller is not None:
            self.controller.saw(active_F.sum().item() / len(x_BD[:: self._sampled] if task.noise else x_BD))
        self.silent_F.add_(len(x_BD)).masked_fill_(active_F > 0, 0)
        self.step.adam(self.weights, self.gradients, self.first, self.second, self._adam(lr, square))
        task.phi.constrain(self.weights)
        if self.config.aligned:
            aligned.hold(self.weights)
        if self.controller is not None and self.config.has_own_threshold and not self.config.has_target:
            self.weights["threshold"].mul_(self.controller.shift)
        if (every := self.training.resample_every) and (step + 1) % every == 0 and lr == self.training.lr:
            self._resample(x_BD, sums, step)
        return f"{self.entry.name}: {spike} in batch {step:,} of {self.entry.hook}" if spike else ""

    def _count(self, window: Window, raw_BD: Tensor, x_BD: Tensor, sums: Sums, task: Task) -> None:
        """Add a batch to a window; explained variance is of tokens at their own lengths."""
        if self.start.per_token_scaling:
            square_scale_B = wide(self.start.token_scale(raw_BD).squeeze(1)).square()
            error, x_BD = (sums.square_B @ square_scale_B).item(), raw_BD
        else:
            error = sums.squared_error
        window.add(len(x_BD), self.step.moments(x_BD), sums, task.objective, error)

    @property
    def coefficient(self) -> float:
        """β, after its warm-up: what the recipe gives, or what the controller has come to."""
        if self.controller is None:
            return self.facts.coefficient
        if self.config.has_target:
            return self.config.target_pull * _first(self.entry, self.config, self.training, self.facts)
        return self.controller.coefficient

    def sees(self, x_BD: Tensor) -> Tensor:
        """Raw activations as the SAE is trained on them: scaled, and without c."""
        seen_BD = self.scaled(x_BD)
        return seen_BD if self.centre_D is None else seen_BD - self.centre_D

    def scaled(self, x_BD: Tensor) -> Tensor:
        """Raw activations in the scale that the SAE is trained in."""
        if self.start.per_token_scaling:
            return x_BD / self.start.token_scale(x_BD)
        return x_BD * self.facts.scale if self.facts.scale != 1 else x_BD

    def _task(self, step: int, l1: float) -> Task:
        sigma, drawn, key = self.config.noise, self.config.random_prefixes, noise_key(self.training.seed, step)
        return Task(
            self.start.nonlinearity,
            objective(
                self.config,
                k=self.controller.aim if self.controller and self.config.has_target else self.entry.l0 or 0.0,
                norm_power=self.training.norm_power,
                sparsity=l1,
                prefixes=draw(self.config.features, drawn, key) if drawn else None,
                centre_D=self.centre_D,
                dead=self._of_dead(),
            ),
            Noise(sigma, key) if sigma else None,
            unit_norm=self.config.has_unit_rows,
        )

    def _of_dead(self) -> Objective:
        """The terms that train the features that are dead now, if there are any."""
        by_error, by_preactivation = self.config.auxk_coefficient, self.config.preactivation_coefficient
        if not by_error and not by_preactivation:
            return ()
        dead_N = self._dead()
        if not len(dead_N):
            return ()
        terms: Objective = ((by_preactivation, PreActivation(dead_N)),) if by_preactivation else ()
        if by_error:
            k = self.config.auxk_features or min(512, self.start.width // 2)
            stride = math.ceil(len(dead_N) / (AUXK_SHARE * self.start.features))
            both_signs = isinstance(self.start.nonlinearity, AbsTopK)
            terms = ((by_error, AuxK(k, dead_N, stride, both_signs)), *terms)
        return terms

    def _dead(self) -> Tensor:
        """The features to revive, ascending."""
        return torch.nonzero(self.silent_F >= self.training.revive_after_tokens).flatten()

    def _resample(self, x_BD: Tensor, sums: Sums, step: int) -> None:
        """Start the dead features anew; they count as silent from here on."""
        dead_N = self._dead()
        start = self.start.nonlinearity.start(self.start.features)
        key = noise_key(self.training.seed, step)
        resample(self.weights, (self.first, self.second), dead_N, x_BD, sums.square_B, start, key)
        self.silent_F[dead_N] = 0
        if self.config.aligned:
            aligned.hold(self.weights)

    def _adam(self, lr: float, gradient_square: float) -> Adam:
        # clipped per member: a global norm would couple the members of a sweep
        norm, most = math.sqrt(gradient_square), self.training.clip_norm
        shrink = most / norm if most is not None and norm > most else 1.0
        return Adam(lr, self.updates, self.training.betas, shrink, self.config.has_unit_rows)

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

        Where training takes tokens otherwise, they are over the sample; those of training are called `noisy_…` with
        noise, else `training_…`.
        """
        known = self.tokens >= dead_after_tokens
        dead = (self.silent_F >= dead_after_tokens).double().mean().item() if known else None
        silent = (self.silent_F >= dead_after_tokens / RARE).double().mean().item()
        rare = None if dead is None else silent - dead
        row = {**self.window.metrics(len(self.silent_F)), "dead_fraction": dead, "rare_fraction": rare}
        if self.as_saved is not None:
            how = "noisy" if self.config.noise else "training"
            training = {f"{how}_{key}": row[key] for key in IN_TRAINING}
            row |= self.as_saved.metrics(len(self.silent_F)) | training
            self.as_saved = Window()
        if self.controller is not None:
            row["coefficient"] = self.coefficient
        if isinstance(self.start.nonlinearity, BatchTopK):
            row["threshold"] = self.threshold
        if self.skipped:
            row["skipped_batches"] = self.skipped
        if self.halted_at is not None:
            row["halted_at"] = self.halted_at
        self.window = Window()
        return row

    def sae(self) -> Dictionary:
        """The dictionary for raw activations, as it is now (a copy, on the processor)."""
        weights = {name: weight.cpu() for name, weight in self.weights.items()}
        nonlinearity, weights = self.start.nonlinearity.saved(weights, self.threshold)
        sae = self.start.changed(weights, nonlinearity)
        if self.centre_D is not None:
            sae = fold_centre(sae, self.centre_D.cpu())
        return fold_scaling(sae, self.facts.scale)


def _averaged(updates: int) -> int:
    """Batches over which the threshold of a batchtopk is averaged: the newest tenth, as it moves with the weights."""
    return min(updates, max(20, min(1000, updates // 10)))


def _controller(entry: Entry, config: SAEConfig, training: TrainingConfig, facts: Facts) -> Controller | None:
    """That of a member which is asked for an L0 and takes no k. One that `has_target` has its coefficient, and takes
    from it alone what is aimed at."""
    if entry.l0 is None or config.takes_k:
        return None
    return Controller(entry.l0, math.log(_first(entry, config, training, facts)))


def _first(entry: Entry, config: SAEConfig, training: TrainingConfig, facts: Facts) -> float:
    """About the coefficient that holds the L0 asked for."""
    return first_coefficient(entry.l0 or 1.0, facts.mean_norm, training.norm_power, counts=counts(config))


def _not_finite(x_BD: Tensor, sums: Sums, gradient_square: float) -> str:
    """Which of a step's numbers are not; the activations are looked through only if their sums say so."""
    if all(map(math.isfinite, (sums.squared_error, *sums.terms, gradient_square))):
        return ""
    if not x_BD.isfinite().all():
        return "an activation is not finite"
    finite_loss = all(map(math.isfinite, sums.terms))
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
    device: torch.device = CPU,
) -> Member:
    """A member at its start: members of the same shape and seed start from the same dictionary.

    `head`, the first chunk, has the mean that `sae.centre` is about; without it, that waits for a checkpoint.
    `scratch` is the memory of the step; members that take theirs in turn may share it. `device`: where it is trained;
    its batches have to lie there.
    """
    phi = nonlinearity(config, entry.l0 or 0.0)
    sae = new_dictionary(width, config.features, config.initial_row_norm, training.seed, phi)
    sae.per_token_scaling, sae.longest = config.scaling == "token", mask.longest
    member = Member(
        entry, sae, config=config, training=training, facts=facts, mask=mask, scratch=scratch, device=device
    )
    if config.aligned:
        aligned.hold(member.weights)
    if head is not None and config.centre != "none":
        mean_D = wide(member.scaled(starting_rows(head, entry.hook, mask, facts.median_norm))).mean(0)
        if member.centre_D is not None:
            member.centre_D.copy_(mean_D)
        else:
            member.weights["b_dec"].copy_(mean_D)
            if config.architecture not in ("relu", "tanh_relu"):
                by_F = -(member.weights["b_dec"] @ member.weights["W_enc"])
                for name, bias_F in phi.moved(member.weights, by_F).items():
                    member.weights[name].copy_(bias_F)
    return member
