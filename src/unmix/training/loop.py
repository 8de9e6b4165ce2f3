"""The training loop. Every member sees the same batches and nothing of the others.

for each batch of activations:
    for each member:                    its own weights, optimizer, coefficient, counts
        loss and gradients              kernels/
        clip, Adam                      member.py; on an accelerator some steps at a time, see late.py
    now and then: a line of metrics, a checkpoint
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from unmix.activations.stream import Source
from unmix.errors import UserError
from unmix.training.late import Late
from unmix.training.member import Member
from unmix.training.pace import Pace
from unmix.training.schedule import Schedule

Row = dict[str, Any]


class Rows(list[Row]):
    """A row per member at one step. How long training still takes comes along for whoever watches; it is no metric."""

    seconds_left: float | None = None
    """None while it is not known, and where members catch up with others that are to be trained further."""


class Stopped(Exception):
    """Training was asked to stop, and did so after saving its work at this step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


def train(
    members: Sequence[Member],
    source: Source,
    schedule: Schedule,
    *,
    first: int,
    upto: int | None = None,
    logged: Container[int],
    checkpoint_every: int,
    dead_after_tokens: int,
    log: Callable[[list[Row]], None],
    save: Callable[[int], None],
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = 0.0,
    others: bool = False,
) -> None:
    """Make updates number first … schedule.steps - 1 on every member, or … upto - 1.

    `log` gets a row per member (as `Rows`) at the steps `logged` and at the end, even if no step is left to it; `save`
    is called with the number of updates made. Raises `Stopped`, after saving, once `stop()` answers true. `say` hears
    of numbers that are not finite; if every member is halted by them, raises `UserError`, unless there are `others` in
    the run that are not. `seconds` were spent before `first`.
    """
    began = time.perf_counter() - seconds
    last = schedule.steps if upto is None else upto
    pace = Pace(first, last, batch_tokens=source.batch_tokens, chunk_tokens=source.chunk_tokens)
    taking = [Late(member, schedule) for member in members]

    def warn(wrong: list[str]) -> None:
        for line in wrong:
            say(f"warning: {line}")

    def rows(done: int, at: float) -> Rows:
        rate = pace.tokens_per_s()
        shared = {"tokens_per_s": None if rate is None else round(rate, 1), "seconds": round(at - began, 6)}
        found = Rows(
            [
                {"step": done, "tokens": member.tokens, **_who(member)}
                | member.metrics(dead_after_tokens)
                | {"lr": schedule.lr_at(done - 1, member.training.lr)}
                | shared
                for member in members
            ]
        )
        found.seconds_left = pace.seconds_left() if last == schedule.steps else None  # others are trained behind it
        return found

    if first == schedule.steps:  # a checkpoint on the way has become the end
        log(rows(first, time.perf_counter()))
        save(first)
    for step, batch in enumerate(source.batches(first, last), start=first):
        for each in taking:
            warn(each.take(step, batch))
        done, stopping = step + 1, stop()
        logging = done in logged or done == schedule.steps
        saving = done % checkpoint_every == 0 or done in (schedule.stable_until, last) or stopping
        if logging or saving or pace.opens(done):  # no batch waits in a chunk that makes room for the next one
            for each in taking:
                warn(each.settle())
        if not others and all(member.halted_at is not None for member in members):
            raise UserError(_all_halted(members))

        at = time.perf_counter()
        pace.ended(at)
        if logging:
            log(rows(done, at))
        if saving:
            save(done)
        if stopping and done < schedule.steps:
            raise Stopped(done)


def _all_halted(members: Sequence[Member]) -> str:
    halted = ", ".join(f"{member.entry.name} by batch {member.halted_at:,}" for member in members)
    return (
        f"no member is left to train: halted {halted}, whose numbers were not finite or stood out; "
        "give a smaller training.lr, or a mask for high-norm tokens (training.mask.norm_above), and another --name"
    )


def _who(member: Member) -> Row:
    entry = member.entry
    row: Row = {"member": entry.name, "hook": entry.hook, "l1": entry.l1}
    if entry.l0 is not None:
        row["target_l0"] = entry.l0
    if entry.variant:
        row["variant"] = entry.variant
        if entry.l0 is None:
            row["coefficient"] = member.facts.coefficient
    return row
