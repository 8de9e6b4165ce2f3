"""Which dictionary is the one: fewer than N active features per token, but not far fewer.

L0 goes on falling long after the loss is flat, so a member is judged by the L0 that it will have at a later step, if
that can be predicted. With b the slope of log L0 against log s at present, falling off as s^-p, and h = at / now,

    L0(at) = L0(now) · exp(b (1 - h^-p) / p)

b and p come from two straight lines, through the last 30 % of the steps and the 21 % before them. With the prediction
goes a 90 % band, as wide as `scripts/calibrate_forecast.py` finds it on recorded runs (docs/choice.md has the figures).
Where the records support no such band there is no forecast, and a member is judged by what is measured. A decay of the
learning rate can move L0 either way: nothing is predicted across one. Nor is anything predicted of a member that is
held at the L0 that it was asked for.

Among members that were asked for an L0 the densest is no fair choice between architectures: it would be the one whose
controller overshot most. Of those that came near what they were asked for, the densest of each variant are compared by
explained variance, as far as they are at about the same L0. What is compared with N is then the L0 that was asked for,
at most N of it: what is measured moves about that from line to line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from unmix.runlog import Request, requested, split_name

FAR_FEWER = 1 / 3  # below this share of the cap the choice comes with a word of warning
REACH = 3.0
"""A step more than this many times as far is not predicted."""
WINDOW = 0.7
"""Rows after this share of the steps are recent; the rows before them, after the same share of that, are earlier."""
FEWEST = 4  # rows in each of the two
FLATTEST = -0.1  # a slope of 7 % a doubling: what falls less may as well rise next
ABOUT_THE_SAME = 0.75  # an L0 of at least so much of the densest one's
FAR_FROM_ASKED = 1.25  # times as many as were asked for, or as few
STEEPEST = 1.05  # times the earlier slope: a fall that gathers speed follows no trend that we know

Row = dict[str, Any]


class NoForecast(Exception):
    """Why L0 cannot be predicted, in words."""


@dataclass(frozen=True)
class Forecast:
    """L0 at a later step, with a 90 % band."""

    l0: float
    low: float
    high: float


class Trend(NamedTuple):
    """A curve as the forecast sees it."""

    l0: float
    """Its level at the end."""
    slope: float
    """b of the recent rows; below 0."""
    change: float
    """The recent slope over the earlier one, at most STEEPEST: below 1 where the fall slows down."""


class Fit(NamedTuple):
    """What is fitted to recorded runs."""

    trust: float
    """p = trust · p̂, where p̂ is what the change of the slope says: it is noisy."""
    width: float
    """The band is L0 · exp(± width · (NOISE + |b| (x + x²/2))), x = log h: b is not exact, and neither is p."""


FIT = Fit(trust=0.7, width=0.3)
NOISE = 0.04


@dataclass(frozen=True)
class Candidate:
    """A member and how it stands to the rule."""

    member: str
    hook: str
    l1: float | None
    """None where an L0 was asked for."""
    target_l0: float | None
    """The L0 that was asked for; None where it was a coefficient."""
    l0: float
    """As measured at `l0_at_step`."""
    l0_at_step: int
    """The last step up to the one in question; if that is a later one than the sweep made, the last at the full
    learning rate, where an extension begins."""
    nonzero_proportion: float
    explained_variance: float | None
    """Up to there, the median over the last tenth of the steps; None if it was not measured."""
    predicted_l0: float
    """At the step in question; `l0` if there is no forecast."""
    low: float | None
    high: float | None
    """The band; None where nothing was predicted."""
    no_forecast: str | None
    """Why there is none, where one was asked for."""
    admissible: bool
    why: str

    @property
    def request(self) -> Request:
        """What it was asked for."""
        return requested({"l1": self.l1, "target_l0": self.target_l0})

    @property
    def missed(self) -> bool:
        """Whether its L0 is far from the one that it was asked for."""
        return self.request.kind == "l0" and not near_asked(self.request, self.l0)

    @property
    def kind(self) -> str:
        """Its hook and variant; what was asked for means the same to members of one kind."""
        return split_name(self.member)[0]


def level(rows: Sequence[Row], at: int, key: str = "l0") -> float:
    """The median over the last tenth of the steps up to `at`, or the last row before it; NaN if there is none."""
    before = [row for row in rows if row["step"] <= at]
    near = [row[key] for row in before if row["step"] > 0.9 * at] or [row[key] for row in before[-1:]]
    return float(np.median(near)) if near else math.nan


def measured(rows: Sequence[Row]) -> list[Row]:
    """Without the windows whose every token was masked: they have no means."""
    return [row for row in rows if row.get("over_tokens") != 0]


def steady(rows: Sequence[Row], after: int = 0) -> list[Row]:
    """The rows at the full learning rate, behind its warm-up and before its decay, and after a step."""
    full = max((row["lr"] for row in rows), default=0.0)
    return [row for row in rows if row["lr"] == full and row["step"] > after]


def trend(rows: Sequence[Row]) -> Trend:
    """The trend of the last half of the steps. Raises `NoForecast` if it has none that can be continued."""
    now = rows[-1]["step"] if rows else 0
    parts = [
        [row for row in rows if now * WINDOW ** (n + 1) < row["step"] <= now * WINDOW**n and row["l0"] > 0]
        for n in range(2)
    ]
    if min(map(len, parts)) < FEWEST:
        raise NoForecast(f"too few rows of metrics at the full learning rate up to step {now:,}")
    recent, earlier = (_slope(part) for part in parts)
    l0 = level(rows, now)
    if not l0 >= 1:
        raise NoForecast(f"hardly anything is active, {l0:.2g} features per token")
    if max(recent, earlier) > FLATTEST:
        raise NoForecast("its L0 does not fall steadily")
    if recent / earlier > STEEPEST:
        raise NoForecast("the fall of its L0 is not slowing down yet")
    return Trend(l0, recent, recent / earlier)


def _slope(rows: Sequence[Row]) -> float:
    return float(np.polyfit(np.log([row["step"] for row in rows]), np.log([row["l0"] for row in rows]), 1)[0])


def extrapolate(trend: Trend, horizon: float, fit: Fit = FIT) -> Forecast:
    """L0 at `horizon` times as many steps."""
    p = fit.trust * math.log(trend.change) / math.log(WINDOW)
    # the slope was measured about the middle of its rows, √WINDOW of the steps
    slope, x = trend.slope * WINDOW ** (p / 2), math.log(horizon)
    l0 = trend.l0 * math.exp(slope * (-math.expm1(-p * x) / p if p else x))
    half = fit.width * (NOISE + abs(trend.slope) * (x + x * x / 2))
    return Forecast(l0, l0 * math.exp(-half), l0 * math.exp(half))


def forecast(rows: Sequence[Row], at: int) -> Forecast:
    """L0 at a later step, from rows at the full learning rate. Raises `NoForecast`."""
    found = trend(rows)
    horizon = at / rows[-1]["step"]
    if horizon > REACH:
        raise NoForecast(f"step {at:,} is more than {REACH:g} times as far as step {rows[-1]['step']:,}")
    return extrapolate(found, horizon)


def choose(
    rows: Sequence[Row], *, max_active: float, predict_step: int, warmup: int = 0, decay_to: int | None = None
) -> dict[str, Any]:
    """Apply the rule to the metrics of a sweep; the answer is what `choice.json` holds.

    `warmup`: steps in which the penalty still rises. `decay_to`: where the decay ends that begins at `predict_step`, if
    one is planned. `member` is None, and `reason` says what to try, if no member is admissible.
    """
    by_member: dict[str, list[Row]] = {}
    for row in rows:
        if row["phase"] == "sweep":
            by_member.setdefault(row["member"], []).append(row)
    ahead = decay_to is not None or predict_step > max(curve[-1]["step"] for curve in by_member.values())
    candidates = [_judge(curve, max_active, predict_step, warmup, ahead) for curve in by_member.values()]
    # in the order of what was measured: some members may have a forecast and others none
    candidates.sort(key=lambda c: _first_if_not_finite(c.l0 if ahead else c.predicted_l0), reverse=True)
    best, rivals = _best([c for c in candidates if c.admissible])
    at_step = max(c.l0_at_step for c in candidates) if ahead else predict_step
    for_l0 = all(c.request.kind == "l0" for c in candidates)
    asked = for_l0 and len({c.kind for c in candidates}) > 1
    between = "; of variants near the L0 asked for, with about as many, the one with the best explained variance"
    decay = f", where the decay of the learning rate to step {decay_to:,} begins" if decay_to is not None else ""
    below = "asked for, at most" if for_l0 else "below"
    rule = f"the most active features per token {below} {max_active:g}, at step {predict_step:,}{decay}"
    return {
        "member": best.member if best else None,
        "rule": rule + between * asked,
        "max_active": max_active,
        "at_step": at_step,
        "predict_step": predict_step,
        "reason": " ".join([_reason(best, candidates, max_active, predict_step), *_compared(best, rivals)]),
        "candidates": [asdict(c) for c in candidates],
        "came_true": None,
    }


def _judge(curve: list[Row], cap: float, predict_step: int, warmup: int, ahead: bool) -> Candidate:
    last, curve = curve[-1], measured(curve)
    path = (steady(curve, warmup) or curve) if ahead else [row for row in curve if row["step"] <= predict_step]
    now = path[-1]["step"] if path else 0
    expected, band, none = path[-1]["l0"] if path else math.nan, None, None
    if predict_step > (now if ahead else last["step"]):
        try:
            if requested(last).kind == "l0":
                raise NoForecast(f"it is held at the {requested(last).number} that it was asked for")
            band = forecast(steady(curve, warmup), predict_step)
            expected = band.l0
        except NoForecast as error:
            none = str(error)
    whole = all(math.isfinite(row["loss"]) for row in curve if row["step"] > 0.9 * now) and "halted_at" not in last
    asked = requested(last)
    admissible = whole and not math.isnan(expected) and not _too_dense(asked, expected, cap)
    if not whole:
        why = f"halted by batch {last['halted_at']:,}" if "halted_at" in last else "its loss is not finite"
    elif math.isnan(expected):
        why = f"nothing was measured up to step {predict_step:,}"
    else:
        value = f"about {_figure(expected)} active expected" if band else f"{_figure(expected)} active"
        held = near_asked(asked, expected)
        under = "not over" if held else "under"
        over = "over" if held else "not under"
        value = f"{asked.number} asked for, {value}" if held else value
        why = f"{value}, {under if admissible else over} {cap:g}"
        why = f"no forecast: {none}; {why}" if none else why
    return Candidate(
        member=last["member"],
        hook=last["hook"],
        l1=last["l1"],
        target_l0=last.get("target_l0"),
        l0=path[-1]["l0"] if path else math.nan,
        l0_at_step=now,
        nonzero_proportion=path[-1]["nonzero_proportion"] if path else math.nan,
        explained_variance=_explained(path),
        predicted_l0=expected,
        low=band.low if band else None,
        high=band.high if band else None,
        no_forecast=none,
        admissible=admissible,
        why=why,
    )


def _first_if_not_finite(l0: float) -> float:
    return l0 if math.isfinite(l0) else math.inf


def near_asked(asked: Request, l0: float) -> bool:
    """Whether it was asked for an L0, and has about that."""
    return asked.kind == "l0" and asked.value / FAR_FROM_ASKED < l0 < asked.value * FAR_FROM_ASKED


def _too_dense(asked: Request, l0: float, cap: float) -> bool:
    """Whether the L0 that is compared with the cap is too much for it: the one that was asked for, where `l0` is about
    that and moves about it; else `l0` itself. NaN is not."""
    return asked.value > cap if near_asked(asked, l0) else l0 >= cap


def _explained(path: list[Row]) -> float | None:
    """The median over the last tenth of the steps: one line of a batchtopk is over a few hundred tokens alone."""
    known = [row for row in path if (share := row.get("explained_variance")) is not None and math.isfinite(share)]
    return level(known, known[-1]["step"], "explained_variance") if known else None


def _best(admissible: list[Candidate]) -> tuple[Candidate | None, list[Candidate]]:
    """(the choice of these, which are the densest first; the densest of the other variants at about the same L0)."""
    if not admissible:
        return None, []
    asked = all(c.request.kind == "l0" for c in admissible) and len({c.kind for c in admissible}) > 1
    densest: dict[str, Candidate] = {}
    for candidate in [c for c in admissible if not (asked and c.missed)] or admissible:
        densest.setdefault(candidate.kind, candidate)
    best, *others = densest.values()
    near = [best, *(c for c in others if c.l0 >= ABOUT_THE_SAME * best.l0)]
    if asked:
        best = max(near, key=lambda c: -math.inf if c.explained_variance is None else c.explained_variance)
    return best, [c for c in near if c is not best]


def _compared(best: Candidate | None, rivals: list[Candidate]) -> list[str]:
    """Which variant explains most at about the same L0, in a sentence; none where there is nothing to compare."""
    known = [(c.explained_variance, c) for c in [best, *rivals] if c and c.explained_variance is not None]
    if len(known) < 2:
        return []
    (most, first), *others = sorted(known, key=lambda pair: pair[0], reverse=True)
    rest = ", ".join(f"{c.member} {100 * share:.1f} % at {_figure(c.l0)}" for share, c in others)
    which = "it" if first is best else first.member
    return [
        f"Of the {len(known)} variants at about as many active features, {which} explains the most variance, "
        f"{100 * most:.1f} % at {_figure(first.l0)}; {rest}."
    ]


def _figure(l0: float) -> str:
    return f"{l0:,.0f}" if l0 >= 100 else f"{l0:.3g}"


def _stands(candidate: Candidate, then: int) -> str:
    """What is measured of a member, and what is expected."""
    text = f"{candidate.member} has {_figure(candidate.l0)} active features per token at step {candidate.l0_at_step:,}"
    if candidate.missed:
        text += f", where {candidate.request.number} were asked for"
    if candidate.low is not None and candidate.high is not None:
        band = f"90 % band {_figure(candidate.low)} to {_figure(candidate.high)}"
        text += f" and is expected at {_figure(candidate.predicted_l0)} by step {then:,} ({band})"
    return f"{text} (no forecast: {candidate.no_forecast})" if candidate.no_forecast else text


def _reason(best: Candidate | None, candidates: list[Candidate], cap: float, then: int) -> str:
    if best is None:
        if broken := [c for c in candidates if not _too_dense(c.request, c.predicted_l0, cap)]:
            return f"No member can be chosen: {'; '.join(f'{c.member}: {c.why}' for c in broken)}."
        sparsest = candidates[-1]
        held = near_asked(sparsest.request, sparsest.predicted_l0)
        none = "was asked for at most" if held else "comes under"
        return (
            f"No member {none} {cap:g} active features per token: the sparsest, {_stands(sparsest, then)}. "
            f"{_sparser(sparsest, cap, candidates)}"
        )
    how = "as asked for, and not over" if near_asked(best.request, best.predicted_l0) else "under"
    text = f"{_stands(best, then)}: {how} {cap:g}"
    kin = [c for c in candidates if c.kind == best.kind]
    denser = [c for c in kin if not c.admissible and _too_dense(c.request, c.predicted_l0, cap)]
    if denser:
        text += f", where the next denser member, {denser[-1].member}, {_over(denser[-1])}"
    text += "."
    if best.predicted_l0 < cap * FAR_FEWER:
        if denser:
            low, high = sorted((denser[-1].request.value, best.request.value))
            what = "A coefficient" if best.request.kind == "l1" else "An L0"
            text += (
                f" That is far fewer than {cap:g}. {what} between {low:g} and {high:g} would come closer to the cap."
            )
        elif best.request.kind == "l1":
            text += f" That is far fewer than {cap:g}."
    return text


def _over(candidate: Candidate) -> str:
    """What of it is over the cap."""
    if near_asked(candidate.request, candidate.predicted_l0):
        return f"was asked for {candidate.request.number}"
    return f"is not ({_figure(candidate.predicted_l0)})"


def _sparser(sparsest: Candidate, cap: float, candidates: list[Candidate]) -> str:
    """What to ask for, where even the sparsest member is too dense."""
    kind, value = sparsest.request
    if kind == "l1":
        return f"Add a larger coefficient to its l1, {_between(value or 1.0, sparsest.predicted_l0, cap / 2):.2g} say."
    share = min(1.0, 0.8 * cap / sparsest.predicted_l0)
    fewer = max(1, round(float(f"{value * share:.2g}")))  # topk takes whole ones
    asked = sorted({fewer, *(c.request.value for c in candidates if c.request.kind == "l0")})
    return f"Ask for fewer: --l0 {' '.join(f'{each:g}' for each in asked)}."


def _between(l1: float, l0: float, target: float) -> float:
    return l1 * max(1.5, l0 / target)  # L0 falls about as fast as l1 grows, over a decade or so
