"""How good the forecast of L0 is: it is replayed on recorded runs, and its fit and its band are tried on runs left out.

    python scripts/calibrate_forecast.py            every curve under records/

At many points of each curve the forecast sees the rows up to there, and a later step is predicted that the curve reaches.
What is measured there is the median over the last tenth of the steps up to it. Each run in turn is left out: the fit is
made to the others, in which runs count alike however many members they have, and judged on that run. A cell has the share
of the trials in which the band holds, of how many, and the median half width of the band.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unmix.runlog import read_metrics
from unmix.training.choice import FIT, REACH, Fit, NoForecast, Row, Trend, extrapolate, level, measured, steady, trend

Floats = npt.NDArray[np.float64]
HORIZONS = (1.1, 1.25, 1.5, 2.0, 2.5, REACH)
POINTS = 12  # of each curve and horizon
SHARE = 0.9


class Trial(NamedTuple):
    """One prediction that can be compared with what was measured."""

    run: str
    horizon: float
    trend: Trend
    later: float
    """The measured L0 at `horizon` times as many steps."""


class Judged(NamedTuple):
    """How a band did."""

    horizon: float
    inside: bool
    half: float
    """The upper half of the band as a share of the middle."""


def curves(path: Path) -> Iterator[list[Row]]:
    """The members' rows at the full learning rate and penalty, an extension's behind those of its sweep."""
    rows = measured(read_metrics(path))
    # a twentieth of the steps is the warm-up of the penalty
    warm = max(row["step"] for row in rows if row["phase"] == "sweep") / 20
    for member in dict.fromkeys(row["member"] for row in rows):
        own = [row for row in rows if row["member"] == member]
        yield sorted(steady(own, round(warm)), key=lambda row: row["step"])


def trials(path: Path, none: Counter[str]) -> list[Trial]:
    """Every prediction that can be tried; `none` gets how often there was no forecast, and why."""
    found, run = [], path.parent.as_posix().removeprefix("records/")
    for rows in curves(path):
        last = rows[-1]["step"]
        for horizon in HORIZONS:
            for at in np.geomspace(min(rows[0]["step"] * 2, last / horizon), last / horizon, POINTS):
                seen = [row for row in rows if row["step"] <= at]
                try:
                    known = trend(seen)
                except NoForecast as error:
                    none[re.split(r",| up to", str(error))[0]] += 1
                    continue
                found.append(Trial(run, horizon, known, level(rows, round(seen[-1]["step"] * horizon))))
    return found


def misses(tried: list[Trial], fit: Fit) -> Floats:
    """|log of measured over predicted| in half widths of a band of width 1."""
    unit = fit._replace(width=1.0)
    guesses = [extrapolate(trial.trend, trial.horizon, unit) for trial in tried]
    return np.array(
        [
            abs(math.log(max(trial.later, 1e-3) / guess.l0)) / math.log(guess.high / guess.l0)
            for trial, guess in zip(tried, guesses, strict=True)
        ]
    )


def evenly(tried: list[Trial]) -> Floats:
    """Weights by which runs count alike."""
    size = Counter(trial.run for trial in tried)
    return np.array([1 / size[trial.run] / len(size) for trial in tried])


def fitted(tried: list[Trial]) -> Fit:
    """`trust` by least squares, and the width with which the band holds in SHARE of the trials."""
    weight = evenly(tried)
    grid = [Fit(n / 20, 1.0) for n in range(31)]
    best = min(grid, key=lambda fit: float(weight @ misses(tried, fit) ** 2))
    found = misses(tried, best)
    order = np.argsort(found)
    return best._replace(width=round(float(found[order][np.searchsorted(weight[order].cumsum(), SHARE)]), 2))


def judged(tried: list[Trial], fit: Fit) -> list[Judged]:
    guesses = [extrapolate(trial.trend, trial.horizon, fit) for trial in tried]
    return [
        Judged(trial.horizon, guess.low <= trial.later <= guess.high, math.sqrt(guess.high / guess.low) - 1)
        for trial, guess in zip(tried, guesses, strict=True)
    ]


def line(name: str, outcomes: list[Judged], fit: Fit | None = None) -> str:
    """A row of the table: of each horizon the share inside, of how many, and the median half width of the band."""
    cells = []
    for horizon in HORIZONS:
        at = [outcome for outcome in outcomes if outcome.horizon == horizon]
        half = float(np.median([outcome.half for outcome in at])) if at else math.nan
        cells.append(f"{np.mean([outcome.inside for outcome in at]):.0%} of {len(at)}, ±{half:.0%}" if at else "")
    of = f"{fit.trust:.2f}, {fit.width:.2f}" if fit else ""
    return f"| {' | '.join([name, of, *cells])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", help="files of metrics; records/**/*metrics.jsonl if not given")
    paths = parser.parse_args().paths or sorted(Path("records").glob("**/*metrics.jsonl"))
    none: Counter[str] = Counter()
    tried = [trial for path in paths for trial in trials(path, none)]
    print(f"| left out | trust, width | {' | '.join(f'{h:g} times as far' for h in HORIZONS)} |")
    print(f"|---|---|{'--:|' * len(HORIZONS)}")
    everything = []
    for run in sorted({trial.run for trial in tried}):
        fit = fitted([trial for trial in tried if trial.run != run])
        outcomes = judged([trial for trial in tried if trial.run == run], fit)
        everything += outcomes
        print(line(run, outcomes, fit))
    print(line("each in turn", everything))
    for name, fit in (("none", fitted(tried)), ("none; as in the code", FIT)):
        print(line(name, judged(tried, fit), fit))
    print(
        f"\nof {none.total() + len(tried):,} points, no forecast: {', '.join(f'{why} {n}' for why, n in none.items())}"
    )


if __name__ == "__main__":
    main()
