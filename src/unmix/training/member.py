"""One member of a sweep: an SAE in training, its optimizer, its counts. Shares nothing with the other members."""

from __future__ import annotations

import math
from collections import deque
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch, Pair
from unmix.config import SAEConfig, TrainingConfig
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import BatchTopK
from unmix.dictionary.per_token import ByLength
from unmix.dictionary.table import counts, nonlinearity, objective
from unmix.dictionary.terms import Objective, SquaredError
from unmix.errors import UserError
from unmix.kernels import aligned, reference
from unmix.kernels.dispatch import Scratch, Step
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Adam, Noise, Number, Sums, Task, Weights, wide
from unmix.training import revive
from unmix.training.controller import Controller, first_coefficient
from unmix.training.found import SPIKE_AMONG, Found, times
from unmix.training.measure import Facts, kept_rows, starting_rows
from unmix.training.numbers import between, sqrt
from unmix.training.prefixes import draw
from unmix.training.resample import resample
from unmix.training.view import View
from unmix.training.window import Window

CPU = torch.device("cpu")
SKIPS_IN_A_ROW = 10  # so many batches cannot all be bad luck
SAMPLED_NOISY, SAMPLED = 16, 64
"""Where training takes tokens otherwise, one in so many is also taken as the saved dictionary takes it."""
IN_TRAINING = ("loss", "l2_reconstruction_loss", "l1_penalty", "l0", "over_tokens")
"""Metrics that are then given of training too."""
COUNTS = ("updates", "tokens", "in_a_row", "silent_F", "threshold", "controller", "recent", "window", "as_saved")
"""What `learn` replaces, or changes in a copy; beside them it changes weights and moments alone."""
RARE = 10  # a feature is rare if it was silent for one such part of the tokens after which it is dead


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
        self.view = View.new(sae, config, facts, device)
        self.updates = 0
        # a run has decided these before it makes members (`precision.decide`)
        select = "fp32" if training.selection == "auto" else training.selection
        dense = "fp32" if training.dense == "auto" else training.dense
        border = None if training.border == "auto" else training.border
        self.step = Step(select, dense, scratch, border, training.kernels == "portable", training.compile)
        self.late = self.step.late(self.weights["b_enc"])
        """Whether its numbers are left on the device for some steps, see `late`."""
        self.silent_F = torch.zeros(sae.features, dtype=torch.int64, device=device)
        """Tokens since each feature was last active."""
        self.tokens = 0
        self.silence = 0, 0
        """The longest silence of a feature, as far as it was read last, and `tokens` then: none is longer by more than
        the tokens since."""
        self.controller = _controller(entry, config, training, facts)
        self.threshold: Number = 0.0
        """Running mean of the least contribution that a batchtopk keeps: the saved dictionary's threshold."""
        self.window = Window()
        self.as_saved = Window() if config.noise or isinstance(sae.nonlinearity, BatchTopK) else None
        """A sample of the tokens as the saved dictionary takes them, where training takes them otherwise."""
        self._sampled = SAMPLED_NOISY if config.noise else SAMPLED
        self.recent: deque[Number] = deque(maxlen=SPIKE_AMONG)
        """The squared error a token of the newest batches."""
        self.halted_at: int | None = None
        """The batch that halted it: its weights are those from before."""
        self.skipped = 0
        """Batches left out: their numbers were not finite, or they stood out (`on_spike: act`)."""
        self.in_a_row = 0

    def update(self, batch: Batch, step: int, lr: float, l1: float) -> str:
        """One step on a batch of raw activations; `l1` is the coefficient β at this step.

        Answers what was wrong with its numbers, or nothing. If the batch was left out for it, only the counts of what
        was left out have changed. The numbers are read at once; `late` does the same without waiting for a device.
        """
        raw = kept_rows(batch, self.entry.hook, self.mask)
        if not len(raw.x_BD) or self.halted_at is not None:
            return ""
        seen, task, sparse = self.view.of(raw), self.task(step, l1), self.step.sparse
        found = self.look(seen, task)
        if wrong := found.wrong(seen, self.training.on_spike):
            self.step.sparse = sparse
            return self.leave_out(step, wrong)
        self.learn(raw, seen, task, found, lr)
        if self.resamples(step, lr):
            self.resample(seen.x_BD, found.sums, step)
        return self.remark(step, found)

    def look(self, seen: Pair, task: Task, stop_1: Tensor | None = None) -> Found:
        """Loss and gradients. With `stop_1` the numbers are left on the device (`Step.launch`)."""
        words = seen.x_BD, seen.y_BE, self.weights, self.gradients, task
        square: Number
        if stop_1 is not None:
            sums, square = self.step.launch(*words, stop_1, self.config.aligned)
        else:
            sums = self.step(*words)
            if self.config.aligned:
                aligned.tangent(self.weights, self.gradients)
            square = self.step.finish(self.weights, self.gradients, task.unit_norm)
        tokens = len(seen.x_BD)
        return Found(tokens, sums, square, times(sums.squared_error / tokens, self.recent))

    def learn(self, raw: Pair, seen: Pair, task: Task, found: Found, lr: float, stop_1: Tensor | None = None) -> None:
        """Count the batch, and update; the weights stay as they are where `stop` is set, the counts do not."""
        tokens, sums, late = found.tokens, found.sums, stop_1 is not None
        self.in_a_row = 0
        self.updates += 1
        self.tokens += tokens
        self.recent.append(found.error)
        self._count(self.window, raw.y_BE, seen.y_BE, sums, task)
        active_F, looked = sums.active_F, tokens
        if sums.threshold is not None:
            self.threshold = self.threshold + (sums.threshold - self.threshold) / _averaged(self.updates)
        if self.as_saved is not None:
            some = seen.of(seen.x_BD[:: self._sampled], lambda: seen.y_BE[:: self._sampled])
            plain = reference.alone(*some, self.weights, task, self.threshold)
            self._count(self.as_saved, raw.y_BE[:: self._sampled], some.y_BE, plain if late else plain.read(), task)
            if task.noise:
                active_F, looked = plain.active_F, len(some.x_BD)
        if self.controller is not None:
            l0 = wide(active_F.sum()) / looked
            self.controller.saw(l0 if late else l0.item())
        self.silent_F = torch.where(active_F > 0, 0, self.silent_F + looked)
        shrink, bias_rate = self._shrink(found), self.config.bias_rate_at(seen.x_BD.shape[1])
        how = Adam(lr, self.updates, self.training.betas, shrink, task.unit_norm, stop_1=stop_1, bias_rate=bias_rate)
        self.step.adam(self.weights, self.gradients, self.first, self.second, how)
        task.phi.constrain(self.weights)
        if self.config.aligned:
            aligned.hold(self.weights, stop_1)
        if self.controller is not None and self.config.has_own_threshold and not self.config.has_target:
            theta_F = self.weights["threshold"]
            reference.put(theta_F, theta_F * self.controller.shift, stop_1)

    def _count(self, window: Window, raw_BE: Tensor, y_BE: Tensor, sums: Sums, task: Task) -> None:
        """Add a batch to a window; explained variance is of tokens at their own lengths."""
        error = sums.squared_error
        if (per_token := self.view.per_token) is not None:
            square_scale_B = wide(per_token.take(raw_BE).scale.squeeze(1)).square()
            error, y_BE = sums.square_B @ square_scale_B, raw_BE
        window.add(len(y_BE), self.step.moments(y_BE), sums, task.objective, error)

    @property
    def coefficient(self) -> Any:
        """β, after its warm-up: what the recipe gives, or what the controller has come to."""
        if self.controller is None:
            return self.facts.coefficient
        if self.config.has_target:
            return self.config.target_pull * _first(self.entry, self.config, self.training, self.facts)
        return self.controller.coefficient

    def task(self, step: int, l1: Number) -> Task:
        """What it is trained for in this step."""
        sigma, drawn, key = self.config.noise, self.config.random_prefixes, noise_key(self.training.seed, step)
        aim: Any = self.controller.aim if self.controller and self.config.has_target else self.entry.l0 or 0.0
        return Task(
            self.start.nonlinearity,
            objective(
                self.config,
                k=aim,
                norm_power=self.training.norm_power,
                sparsity=l1,
                prefixes=draw(self.config.features, drawn, key) if drawn else None,
                centre_E=self.view.centre_E,
                dead=self._of_dead(),
            ),
            Noise(sigma, key) if sigma else None,
            unit_norm=self.config.has_unit_rows,
        )

    def _of_dead(self) -> Objective:
        """The terms that train the features that are dead now, if there are any."""
        longest, then = self.silence
        if not revive.wanted(self.config) or longest + self.tokens - then < self.training.revive_after_tokens:
            return ()  # a device need not be asked
        error = SquaredError(self.training.norm_power, (), self.view.centre_E)
        return revive.terms(self.config, self.start.nonlinearity, error, self.start.W_dec.shape[1], self._dead())

    def _dead(self) -> Tensor:
        """The features to revive, ascending."""
        return torch.nonzero(self.silent_F >= self.training.revive_after_tokens).flatten()

    def resamples(self, step: int, lr: float) -> bool:
        """Whether dead features start anew after this step, until the learning rate falls."""
        every = self.training.resample_every
        return bool(every) and (step + 1) % (every or 1) == 0 and lr == self.training.lr

    def resample(self, x_BD: Tensor, sums: Sums, step: int) -> None:
        """Start the dead features anew; they count as silent from here on."""
        dead_N = self._dead()
        start = self.start.nonlinearity.start(self.start.features)
        key = noise_key(self.training.seed, step)
        moments, held = (self.first, self.second), self.config.aligned
        resample(self.weights, moments, dead_N, x_BD, sums.square_B, start, key, held=held)
        self.silent_F[dead_N] = 0

    def _shrink(self, found: Found) -> Number:
        # clipped per member: a global norm would couple the members of a sweep
        most = self.training.clip_norm
        if most is None:
            return 1.0
        return most / between(most, sqrt(found.square), math.inf)

    def remark(self, step: int, found: Found) -> str:
        """On a batch that it was trained on: that it stands out, if it does."""
        return f"{self.entry.name}: {found.spike} in batch {step:,} of {self.entry.hook}" if found.spike else ""

    def leave_out(self, step: int, wrong: str) -> str:
        """Skip the batch or halt, as the recipe says. Raises `UserError` if it says `stop`."""
        name, policy = self.entry.name, self.training.on_nonfinite
        found = f"{name}: {wrong} in batch {step:,} of {self.entry.hook}"
        if policy == "stop":
            raise UserError(
                f"{found}; the last checkpoint is from before. Give --training.on_nonfinite skip (leave the batch out) "
                "or halt (leave the member) to go on, or a lower training.lr and another --name to begin anew"
            )
        self.skipped += 1
        self.in_a_row += 1
        if policy == "skip" and self.in_a_row < SKIPS_IN_A_ROW:
            return f"{found}; left out"
        self.halted_at = step
        after = f" after {self.in_a_row} in a row" if policy == "skip" else ""
        return f"{found}; {name} is halted{after} at its last good weights, the other members go on"

    def counts(self) -> dict[str, Any]:
        """What it knows of its batches, beside weights and moments, to be brought back by `recall`."""
        known = {name: getattr(self, name) for name in COUNTS}
        return {name: value if isinstance(value, Tensor) else copy(value) for name, value in known.items()}

    def recall(self, counts: dict[str, Any]) -> None:
        """Know what it knew then."""
        for name, value in counts.items():
            setattr(self, name, value)

    def number(self, x: float) -> Number:
        """As it keeps its numbers: on the device, or as it is."""
        like = wide(self.silent_F[:0])
        return torch.as_tensor(x, device=like.device, dtype=like.dtype) if self.late else x

    def metrics(self, dead_after_tokens: int) -> dict[str, Any]:
        """The means since the last call, which starts a new window: of the dictionary as it would be saved.

        Where training takes tokens otherwise, they are over the sample; those of training are called `noisy_…` with
        noise, else `training_…`.
        """
        looked = self.tokens / self._sampled if self.config.noise else self.tokens
        known = looked >= dead_after_tokens
        dead = wide(self.silent_F >= dead_after_tokens).mean().item() if known else None
        silent = wide(self.silent_F >= dead_after_tokens / RARE).mean().item()
        rare = None if dead is None else silent - dead
        row = {**self.window.metrics(len(self.silent_F)), "dead_fraction": dead, "rare_fraction": rare}
        if self.as_saved is not None:
            how = "noisy" if self.config.noise else "training"
            training = {f"{how}_{key}": row[key] for key in IN_TRAINING}
            row |= self.as_saved.metrics(len(self.silent_F)) | training
            self.as_saved = Window()
        if self.controller is not None:
            row["coefficient"] = float(self.coefficient)
        if isinstance(self.start.nonlinearity, BatchTopK):
            row["threshold"] = float(self.threshold)
        if self.skipped:
            row["skipped_batches"] = self.skipped
        if self.halted_at is not None:
            row["halted_at"] = self.halted_at
        self.window = Window()
        return row

    def sae(self) -> Dictionary:
        """The dictionary for raw activations, as it is now (a copy, on the processor)."""
        weights = {name: weight.cpu() for name, weight in self.weights.items()}
        nonlinearity, weights = self.start.nonlinearity.saved(weights, float(self.threshold))
        return self.view.fold(self.start.changed(weights, nonlinearity))


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
    target_width: int | None = None,
) -> Member:
    """A member at its start: members of the same shape and seed start from the same dictionary.

    `target_width`, E, where y is not x; `facts` then have a target scale. `head`, the first chunk, has the means that
    `sae.centre` is about; without it, these wait for a checkpoint. `scratch` is the memory of the step; members that
    take theirs in turn may share it. `device`: where it is trained; its batches have to lie there.
    """
    phi = nonlinearity(config, entry.l0 or 0.0)
    sae = new_dictionary(width, config.features, config.initial_row_norm, training.seed, phi, target_width=target_width)
    sae.per_token, sae.longest = ByLength() if config.scaling == "token" else None, mask.longest
    member = Member(
        entry, sae, config=config, training=training, facts=facts, mask=mask, scratch=scratch, device=device
    )
    if config.aligned:
        aligned.hold(member.weights)
    if head is not None and config.centre != "none":
        start = starting_rows(head, entry.hook, mask, facts.median_norm)
        mean_D, mean_E = member.view.means(start)
        if member.view.centre_D is not None:
            member.view.centre_D.copy_(mean_D)
            if member.view.target_centre_E is not None:
                member.view.target_centre_E.copy_(mean_E)
        else:
            member.weights["b_dec"].copy_(mean_E)
            if config.architecture not in ("relu", "tanh_relu"):
                by_F = -(mean_D.to(member.weights["W_enc"]) @ member.weights["W_enc"])
                for name, bias_F in phi.moved(member.weights, by_F).items():
                    member.weights[name].copy_(bias_F)
    return member
