"""What the report says in words and in small tables, drawn from a run."""

from __future__ import annotations

import math

from unmix.report import words
from unmix.report.data import Choice, Member, RunData, as_number
from unmix.report.picture import of
from unmix.report.spent import furthest, passes, rate, seconds
from unmix.runlog import Request


def summary(run: RunData) -> list[str]:
    """A few plain sentences: how many members, which was chosen and why, what it does, how long it took.

    Of several choices nothing is said here: `chosen` names them, and each has a section with its reason.
    """
    hooks, count = run.hooks(), len(run.members)
    model = f" of {run.model()}" if run.model() else ""
    place = hooks[0] if len(hooks) == 1 else f"{len(hooks)} hooks"
    people = "One dictionary was" if count == 1 else f"{count} dictionaries were"
    lines = [f"{people} trained on {place}{model}, {_asked(run)}."]
    planned = planned_steps(run)
    if run.step < planned:
        lines.append(f"The sweep is not finished: {words.whole(run.step)} of {words.whole(planned)} steps are done.")
    lines += _halted(run)
    if not run.choices:
        lines.append("No member has been chosen yet.")
    if len(run.choices) == 1:
        [choice] = run.choices
        if (member := run.member(choice.member)) is None:
            lines.append(f"No member was chosen. {choice.reason}".strip())
        else:
            lines.append(f"The choice is {_named(run, member)}. {choice.reason}".strip())
            lines.append(f"{_does(run, member)} of the variance (always predicting the mean explains none).")
    lines.append(_time(run))
    return [line for line in lines if line]


def _halted(run: RunData) -> list[str]:
    """That numbers gone wrong halted members, in a sentence; none where they did not."""
    of = [member for member in run.members if math.isfinite(member.halted_at)]
    if not of:
        return []
    which = words.listed(
        [f"{_named(run, member)} was halted by batch {words.whole(member.halted_at)}" for member in of]
    )
    them, their = ("them", "their") if len(of) > 1 else ("it", "its")
    why = "whose numbers were not finite or stood out"
    return [f"{which}, {why}: whatever else is said of {them} is of {their} weights before that."]


def chosen(run: RunData) -> list[str]:
    """A sentence or two for each choice, where there are several."""
    if len(run.choices) < 2:
        return []
    said = []
    for choice in run.choices:
        if (member := run.member(choice.member)) is None:
            said.append(f"No member was chosen of {choice.among() or 'a hook'}.")
        else:
            said.append(f"The choice is {_named(run, member)}. {_does(run, member)} of the variance.")
    return said


def _asked(run: RunData) -> str:
    """Which variants, and what for."""
    l0, l1 = ([r for r in run.requests() if r.kind == kind] for kind in ("l0", "l1"))
    said = [f"with the penalt{'y' if len(l1) == 1 else 'ies'} λ = {_numbers(l1)}"] if l1 else []
    said += [f"asked for {_numbers(l0)} active features per token"] if l0 else []
    together = "on the same batches" if len(run.members) > 1 else ""
    variants, whole = run.variants(), len(run.groups()) * len(run.requests()) == len(run.members)
    if len(variants) > 1:
        together += f": {words.listed([run.called(v) for v in variants])},{' each' if whole else ''}"
    return f"{together} {' or '.join(said)}".strip()


def _numbers(requests: list[Request]) -> str:
    values = [request.number for request in requests]
    return words.listed(values if len(values) <= 8 else [*values[:3], "…", *values[-3:]])


def _named(run: RunData, member: Member) -> str:
    return member.request.label.replace(" ", " = ") + of(run, member)


def _does(run: RunData, member: Member) -> str:
    end = member.whole().last()
    features = words.whole(run.features_of(member.variant))
    return (
        f"After {words.amount(end['tokens'])} tokens it uses {words.number(end['l0'])} of {features} features per "
        f"token and explains {words.percent(end['explained_variance'])}"
    )


def tiles(run: RunData) -> list[tuple[str, str]]:
    """The headline numbers as (value, name); of the chosen member if there is one."""
    member = run.member(run.choices[0].member) if len(run.choices) == 1 else None
    shown: list[tuple[str, str]] = []
    if member is not None:
        end = member.whole().last()
        what = "chosen penalty" if member.request.kind == "l1" else "asked for"
        shown = [
            (member.request.label, f"{what}, {run.called(member.variant)}" if member.variant else what),
            (words.number(end["l0"]), "active features per token"),
            (words.fixed(end["explained_variance"]), "explained variance"),
        ]
    else:
        shown = [(str(len(run.members)), "members"), (words.whole(run.step), "steps")]
    tokens = furthest(run)["tokens"]
    return [
        *shown,
        (words.tick(float(f"{tokens:.3g}")) if math.isfinite(tokens) else words.MISSING, "tokens seen"),
        (words.duration(seconds(run, "sweep") + seconds(run, "extension")), "training time"),
    ]


def verdict(choice: Choice) -> str:
    """Whether the prediction came true, in one sentence; empty where nothing was predicted."""
    chosen = choice.forecast()
    if chosen is None:
        return ""
    band = f"{words.number(chosen.low)} to {words.number(chosen.high)}"
    said = (
        f"At step {words.whole(choice.at_step)}, {words.number(chosen.predicted_l0)} active features were predicted "
        f"for step {words.whole(choice.predict_step)}, with a band from {band}."
    )
    if not math.isfinite(choice.true_l0):
        return f"{said} It has not been measured yet."
    where = "inside" if chosen.low <= choice.true_l0 <= chosen.high else "outside"
    came = f"Measured there: {words.number(choice.true_l0)}, {where} the band."
    return f"{said} {came}"


def averaged_over(run: RunData) -> str:
    """Over how many tokens the numbers of the table are averaged."""
    counts = sorted({member.sweep.at(run.step)["over_tokens"] for member in run.members})
    known = [count for count in counts if count > 0]
    if not known:
        return "an unknown number of"
    return words.between(known[0], known[-1])


def planned_steps(run: RunData) -> float:
    return as_number(run.section("recipe", "training").get("steps"))


def dead_after(run: RunData) -> float:
    return as_number(run.section("recipe", "training").get("dead_after_tokens"))


def _time(run: RunData) -> str:
    spent = seconds(run, "sweep")
    if not spent:
        return ""
    how = " at once" if passes(run).at_once else ", which were not all trained at once"
    together = f" for all {len(run.members)}{how}" if len(run.members) > 1 else ""
    said = f"The sweep took {words.duration(spent)}{together}"
    said += f", {rate(run, 'sweep')}" if rate(run, "sweep") else ""
    more = seconds(run, "extension")
    which = "extension" if len(run.extended()) == 1 else "extensions"
    return f"{said}; the {which} {words.duration(more)}, {rate(run, 'extension')}." if more else f"{said}."
