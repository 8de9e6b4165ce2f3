"""Learning rate and penalty as functions of the step: warm-up, stable, decay at the end.

The stable part does not know where the run ends, so that a run can be extended from the state before its decay.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps are counted from 0; `steps` updates are made."""

    steps: int
    lr_warmup_steps: int
    l1_warmup_steps: int
    """A number of steps, fixed when the sweep begins: an extension must not change it."""
    decay_steps: int

    @property
    def stable_until(self) -> int:
        """The step at which the decay begins; the run can be extended from its state there."""
        return self.steps - self.decay_steps

    def lr_at(self, step: int, lr: float) -> float:
        """lr · min(1, (s+1)/warmup) · min(1, (steps - s)/(decay + 1))."""
        warm = min(1.0, (step + 1) / self.lr_warmup_steps) if self.lr_warmup_steps else 1.0
        left = min(1.0, (self.steps - step) / (self.decay_steps + 1)) if self.decay_steps else 1.0
        return lr * warm * left

    def l1_at(self, step: int, l1: float) -> float:
        """l1 · min(1, (s+1)/warmup): April 2024, from 0 over the first 5 % of the steps."""
        return l1 * min(1.0, (step + 1) / self.l1_warmup_steps) if self.l1_warmup_steps else l1
