"""How the unexplained variance falls with tokens, features and L0: a power law through dictionaries that are there.

    U = 1 - explained variance = C · tokens^-a · features^-b · L0^-c

Fitted by least squares in logarithms, as Gao et al. 2024 (arXiv 2406.04093, section 3.1) fit theirs; they add a floor
that loss does not fall below, which takes many more runs to see, so that far beyond the longest run this law promises
too much. A quantity that is the same in every run is left out, and then the law holds at that value only.

Its error is that of predicting runs that it has not seen: each run is left out once, and the law through the others
predicts its dictionaries. error = sqrt(mean (ln U - ln U_predicted)²).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix.errors import UserError

NAMES = ("tokens", "features", "l0")
LETTERS = {"tokens": "tokens", "features": "features", "l0": "L0"}
APART = 1.25
"""A quantity whose largest value is less than so many times its smallest does not vary."""
SURE = 100.0
"""Above this condition number of the standardised columns, two quantities rise together and cannot be told apart."""


class Point(NamedTuple):
    """One dictionary on held-out activations."""

    run: str
    tokens: int
    """It was trained on."""
    features: int
    l0: float
    """Measured."""
    unexplained: float
    """1 - explained variance."""


@dataclass(frozen=True)
class Law:
    """The fit."""

    factor: float
    """C."""
    exponents: dict[str, float]
    """a, b, c of those that vary."""
    fixed: dict[str, float]
    """Those that do not, and at what."""
    spans: dict[str, tuple[float, float]]
    """From the smallest to the largest of each that varies."""
    error: float
    """Of ln U, over runs that were left out."""
    dictionaries: int
    runs: int

    def __str__(self) -> str:
        powers = " · ".join(f"{LETTERS[name]}^{-exponent:.3f}" for name, exponent in self.exponents.items())
        return f"1 - EV = {self.factor:.4g} · {powers}"

    def unexplained(self, **at: float) -> float:
        """U there. Raises `UserError` for another value of what no run varies."""
        for name, value in self.fixed.items():
            if not 1 / APART < at[name] / value < APART:
                raise UserError(
                    f"every run has about {value:,.4g} {LETTERS[name]}, so nothing is known of {at[name]:,.4g}; "
                    f"finish a run with other {LETTERS[name]}"
                )
        return float(self.factor * math.prod(at[name] ** -exponent for name, exponent in self.exponents.items()))

    def beyond(self, **at: float) -> dict[str, float]:
        """By how many times each quantity is outside of what the runs span; those within are not named."""
        found = {name: max(at[name] / high, low / at[name]) for name, (low, high) in self.spans.items()}
        return {name: times for name, times in found.items() if times > APART}


def fit(points: Sequence[Point]) -> Law:
    """The law through these dictionaries.

    Raises `UserError` if neither tokens nor features vary, if two quantities rise together, or if there are too few
    runs for the law through all but one of them.
    """
    runs = sorted({point.run for point in points})
    values = {name: np.array([getattr(point, name) for point in points], float) for name in NAMES}
    varied = [name for name in NAMES if len(points) and values[name].max() >= APART * values[name].min()]
    if not {"tokens", "features"} & set(varied):
        raise UserError(
            f"{_said(points, runs)} have one length and width; finish runs with other --steps or --features"
        )
    x_nP = np.column_stack([np.ones(len(points)), *(np.log(values[name]) for name in varied)])
    y_n = np.log([point.unexplained for point in points])
    if not _told_apart(x_nP):
        raise UserError(
            f"{' and '.join(varied)} rise together in {_said(points, runs)}, or too few vary; "
            "finish runs that vary one of them alone"
        )
    errors = []
    for run in runs:
        out_n = np.array([point.run == run for point in points])
        if not _told_apart(x_nP[~out_n]) or (~out_n).sum() <= x_nP.shape[1]:
            raise UserError(
                f"{_said(points, runs)} are too few for a law in {', '.join(varied)}: without {run}, nothing is "
                "left to test it on; finish another run with other --steps or --features"
            )
        errors.append(y_n[out_n] - x_nP[out_n] @ _solved(x_nP[~out_n], y_n[~out_n]))
    b_P = _solved(x_nP, y_n)
    return Law(
        factor=math.exp(b_P[0]),
        exponents={name: -float(b) for name, b in zip(varied, b_P[1:], strict=True)},
        fixed={name: float(np.median(values[name])) for name in NAMES if name not in varied},
        spans={name: (float(values[name].min()), float(values[name].max())) for name in varied},
        error=math.sqrt(float(np.square(np.concatenate(errors)).mean())),
        dictionaries=len(points),
        runs=len(runs),
    )


def _solved(x_nP: NDArray[np.float64], y_n: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.lstsq(x_nP, y_n, rcond=None)[0].astype(np.float64)


def _told_apart(x_nP: NDArray[np.float64]) -> bool:
    """Whether every column has a say of its own."""
    if len(x_nP) < x_nP.shape[1]:
        return False
    apart_nP = x_nP[:, 1:] - x_nP[:, 1:].mean(0)
    width_P = apart_nP.std(0)
    return bool((width_P > 1e-9).all() and np.linalg.cond(apart_nP / width_P) < SURE)


def _said(points: Sequence[Point], runs: Sequence[str]) -> str:
    return f"{len(points)} dictionaries of {len(runs)} finished run{'' if len(runs) == 1 else 's'}"
