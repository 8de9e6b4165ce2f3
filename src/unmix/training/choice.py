"""Which dictionary is the one: fewer than N active features per token, but not far fewer.

L0 goes on falling long after the loss is flat, so a member is judged by the L0 it will have at the step it will be
trained to. Its trend is a power law that falls to a floor c ≥ 0, fitted where the learning rate is stable:

    L0(s) = c + exp(a) s^b,  b ≤ 0        over the last 60, 40 and 25 % of the steps

The guess is the median of the three fits. The band reaches over all of them and over the same fits without a floor
(c = 0), which fall further, each widened by twice the scatter of its points: it says how far the guess moves with the
part of the curve, and with the form, that is believed. Tried backwards on a recorded sweep, the form without a
floor guessed too low for every sparse member; `records/2026-11-21_l1-sweep` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FAR_FEWER = 1 / 3  # below this share of the cap the choice comes with a word of warning
_SHARES = (0.6, 0.4, 0.25)
_FLOORS = tuple(0.02 * n for n in range(50))  # c as a share of the smallest value of the curve


@dataclass(frozen=True)
class Forecast:
    """L0 at a later step."""

    l0: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """A member and how it stands to the rule."""

    member: str
    hook: str
    l1: float
    l0: float
    """Now: the median over the last tenth of the curve."""
    l0_at_step: int
    nonzero_proportion: float
    predicted_l0: float
    low: float
    high: float
    admissible: bool
    why: str


def forecast(steps: list[int], l0: list[float], at: int) -> Forecast:
    """Extrapolate the curve to step `at`; needs at least three points, all of them finite.

    A curve with a zero in it has no power law: its present level is answered. Raises ValueError if too short.
    """
    s, y = np.array(steps, dtype=float), np.array(l0, dtype=float)
    if len(s) < 3 or not np.isfinite(y).all():
        raise ValueError(f"cannot fit a trend to {len(s)} points")
    if at <= s[-1] or y.min() <= 0:
        return _present(y)
    parts = [np.flatnonzero(s >= s[-1] * (1 - share)) for share in _SHARES]
    parts = [part if len(part) >= 3 else np.arange(len(s) - 3, len(s)) for part in parts]
    floored = [_fit(s[part], y[part], at, _FLOORS) for part in parts]
    falling = [_fit(s[part], y[part], at, (0.0,)) for part in parts]
    low = min(guess * math.exp(-2 * scatter) for guess, scatter in floored + falling)
    high = max(guess * math.exp(2 * scatter) for guess, scatter in floored + falling)
    return Forecast(sorted(guess for guess, _ in floored)[1], low, high)


def _fit(s: np.ndarray, y: np.ndarray, at: int, floors: Sequence[float]) -> tuple[float, float]:
    """(value at step `at`, scatter of log y) of the best c + exp(a) s^b, with c a share of the smallest value."""
    x, best = np.log(s), (math.inf, math.nan, math.nan)
    for share in floors:
        c = share * y.min()
        log_y = np.log(y - c)
        b = min(np.polyfit(x, log_y, 1)[0], 0.0)  # what rises at the end of a short curve is noise, not a trend
        a = log_y.mean() - b * x.mean()
        scatter = float(np.std(np.log(y) - np.log(c + np.exp(a + b * x))))
        if scatter < best[0]:
            best = (scatter, float(c + math.exp(a + b * math.log(at))), scatter)
    return best[1], best[2]


def _present(y: np.ndarray) -> Forecast:
    tail = y[-max(1, len(y) // 10) :]
    return Forecast(float(np.median(tail)), float(tail.min()), float(tail.max()))


def choose(rows: list[dict[str, Any]], *, max_active: float, predict_step: int, stable_until: int) -> dict[str, Any]:
    """Apply the rule to the metrics of a sweep; the answer is what `choice.json` holds.

    `member` is None, and `reason` says what to try, if no member is admissible.
    """
    by_member: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["phase"] == "sweep":
            by_member.setdefault(row["member"], []).append(row)
    candidates = [_judge(curve, max_active, predict_step, stable_until) for curve in by_member.values()]
    candidates.sort(key=lambda c: c.predicted_l0 if math.isfinite(c.predicted_l0) else math.inf, reverse=True)
    admissible = [c for c in candidates if c.admissible]
    best = admissible[0] if admissible else None
    at_step = max(c.l0_at_step for c in candidates)
    return {
        "member": best.member if best else None,
        "rule": f"the most active features per token below {max_active:g}, at step {predict_step:,}",
        "max_active": max_active,
        "at_step": at_step,
        "predict_step": predict_step,
        "reason": _reason(best, candidates, max_active, at_step, predict_step),
        "candidates": [asdict(c) for c in candidates],
        "came_true": None,
    }


def _judge(curve: list[dict[str, Any]], cap: float, predict_step: int, stable_until: int) -> Candidate:
    last = curve[-1]
    # a guess beyond the curve starts from its stable part; what was measured needs no guess
    beyond = predict_step > last["step"]
    stable = [row for row in curve if row["step"] <= stable_until] if beyond else curve
    tail = curve[-max(1, len(curve) // 10) :]
    l0 = float(np.median([row["l0"] for row in tail]))
    proportion = float(np.median([row["nonzero_proportion"] for row in tail]))
    try:
        guess = forecast([r["step"] for r in stable], [r["l0"] for r in stable], predict_step)
    except ValueError as error:
        guess, why = Forecast(l0, l0, l0), f"{error}: judged by the L0 it has"
    else:
        why = ""
    whole = all(math.isfinite(row["loss"]) for row in tail) and "halted_at" not in last
    admissible = whole and math.isfinite(guess.l0) and guess.l0 < cap
    if not whole:
        why = f"halted by batch {last['halted_at']:,}" if "halted_at" in last else "its loss is not finite"
    if not why:
        value = f"about {_figure(guess.l0)} active expected" if beyond else f"{_figure(guess.l0)} active"
        why = f"{value}, {'under' if admissible else 'not under'} {cap:g}"
    return Candidate(
        last["member"],
        last["hook"],
        last["l1"],
        l0,
        last["step"],
        proportion,
        guess.l0,
        guess.low,
        guess.high,
        admissible,
        why,
    )


def _kind(candidate: Candidate) -> str:
    return candidate.member.rpartition("l1-")[0]


def _figure(l0: float) -> str:
    return f"{l0:,.0f}" if l0 >= 100 else f"{l0:.3g}"


def _reason(best: Candidate | None, candidates: list[Candidate], cap: float, now: int, then: int) -> str:
    if best is None:
        sparsest = candidates[-1]
        try_l1 = _between(sparsest.l1 or 1.0, sparsest.predicted_l0, cap / 2)
        return (
            f"No member comes under {cap:g} active features per token: the sparsest, {sparsest.member}, is expected "
            f"at {_figure(sparsest.predicted_l0)}. Add a larger coefficient to its l1, {try_l1:.2g} say."
        )
    expected = f" and is expected at {_figure(best.predicted_l0)} by step {then:,}" if then > now else ""
    text = f"{best.member} has {_figure(best.l0)} active features per token at step {now:,}{expected}: under {cap:g}"
    kin = [c for c in candidates if _kind(c) == _kind(best)]  # of its hook and variant: a coefficient means the same
    denser = [c for c in kin if not c.admissible and c.predicted_l0 >= cap]
    text += (
        f", where the next denser member, {denser[-1].member}, is not ({_figure(denser[-1].predicted_l0)})."
        if denser
        else "."
    )
    if best.predicted_l0 < cap * FAR_FEWER:
        hint = ""
        if denser:
            low, high = sorted((denser[-1].l1, best.l1))
            hint = f" A coefficient between {low:g} and {high:g} would come closer to the cap."
        text += f" That is far fewer than {cap:g}.{hint}"
    return text


def _between(l1: float, l0: float, target: float) -> float:
    return l1 * max(1.5, l0 / target)  # L0 falls about as fast as l1 grows, over a decade or so
