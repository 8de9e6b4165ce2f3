"""The coefficient of a penalty that brings a member to the L0 it is asked for.

    e = log(L0 / aim), L0 a running mean over batches, |e| at most 1
    coefficient = exp(I + P e)

The aim goes from the L0 of the first batch to the target, evenly by its logarithm, over the first RAMP batches. Asked
for the target at once, thousands of features were silenced within a hundred steps, more than was asked for, and some of
them for good.

P acts at once; the integral I finds the coefficient that holds the target:

    I ← I + e / NEAR            near the aim
    I ← I + ahead / FAR         far from it, ahead = e + T d(log L0)/d(step), unless that has the other sign

so that I waits while L0 is on its way: L0 follows a coefficient only after hundreds of steps. From batch 2 RAMP on, far
is as near where L0 is not on its way.

Thresholds of a jumprelu follow more slowly still, and once few z are near them hardly at all. They are moved together:

    θ ← θ exp(SHIFT e)          after each update

which at the aim does nothing; the coefficient then decides which thresholds are high and which are low.

P, NEAR, FAR, T, SHIFT and RAMP were tried on the embedded model's activations for relu, gated and jumprelu at L0 5 to
200, at a learning rate of 3e-3. Everything a controller knows is in the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unmix.kernels.task import Number
from unmix.training.numbers import between, exp, log, where

P, NEAR, FAR, T = 0.8, 45.0, 500.0, 150.0  # the last three in steps
SHIFT = 0.015
RAMP = 300  # batches
IS_NEAR = 0.3  # |e| below which it is near
STALLED = 0.5  # of e: L0 is not on its way where more than that would be left after T steps
BATCHES = 20.0  # over which L0 and its slope are averaged; fewer at the start
MOST_LOG = math.log(1e8)  # of the coefficient, up or down: beyond, none reaches the target


@dataclass
class Controller:
    """Of one member."""

    target: float
    """L0 asked for, active features a token."""
    log_coefficient: Number
    """I."""
    mean: Number = 0.0
    """Running mean of L0."""
    slope: Number = 0.0
    """Running mean of its logarithm's change a step."""
    batches: int = 0
    first: Number = 0.0
    """L0 of the first batch."""

    @property
    def aim(self) -> Number:
        """L0 that is wanted now; the target from the start where the first batch had less."""
        if self.batches >= RAMP:
            return self.target
        ramped = self.target * (self.first / self.target) ** (1 - self.batches / RAMP)
        return where(self.first <= self.target, self.target, ramped)

    @property
    def error(self) -> Any:
        """e, 0 before the first batch."""
        return log(_at_least_some(self.mean) / self.aim) if self.batches else 0.0

    @property
    def ahead(self) -> Any:
        """e in T steps, at most 1 in size."""
        return _at_most_1(self.error + T * self.slope)

    @property
    def coefficient(self) -> Number:
        """For the next batch."""
        return exp(self.log_coefficient + P * _at_most_1(self.error))

    @property
    def shift(self) -> Number:
        """What the thresholds of a jumprelu are multiplied by after an update."""
        return exp(SHIFT * _at_most_1(self.error))

    def saw(self, l0: Number) -> None:
        """Count a batch. Numbers are replaced and never changed in place: a copy keeps what it was made of."""
        before = _at_least_some(self.mean)
        self.first = self.first if self.batches else l0
        self.batches += 1
        self.mean = self.mean + (l0 - self.mean) / min(self.batches, BATCHES)
        if self.batches > 1:
            self.slope = self.slope + (log(_at_least_some(self.mean) / before) - self.slope) / BATCHES
        e, ahead = _at_most_1(self.error), self.ahead
        far = where(e * ahead > 0, ahead / FAR, 0.0)
        stalled = (self.batches > 2 * RAMP) & (ahead * e > STALLED * e * e)
        change = where(stalled | (abs(e) < IS_NEAR), e / NEAR, far)
        self.log_coefficient = between(-MOST_LOG, self.log_coefficient + change, MOST_LOG)


def _at_most_1(x: Number) -> Any:
    return between(-1.0, x, 1.0)


def _at_least_some(l0: Number) -> Number:
    return between(1e-3, l0, math.inf)


def first_coefficient(target: float, mean_norm: float, norm_power: int, *, counts: bool) -> float:
    """Where a controller starts: what held L0 at the targets that were tried, brought to n̄ = E||x|| and k.

    It need only be roughly right. `counts`: the penalty is the number of active features.
    """
    if counts:
        return float(0.028 * mean_norm ** (2 - norm_power) * target**-0.87)
    return float(1.16 * mean_norm ** (1 - norm_power) * target**-0.78)
