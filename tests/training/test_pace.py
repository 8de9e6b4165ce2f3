"""The rate and the time left, on times made up and times recorded. No clock runs here."""

from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest

from unmix.training import loop
from unmix.training.member import Entry
from unmix.training.pace import Pace
from unmix.training.schedule import Schedule

# records/2026-11-21_l1-sweep/metrics.jsonl: seconds of each 25 steps of 1,024 tokens, the last 5 steps apart. A chunk
# is 65,536 tokens: every third line or so has one in it. Around step 4,200 another program held it up.
RECORDED = """
8.8 8.9 13.1 24.7 16.8 13.1 7.7 12.2 8.6 8.4 12.1 7.9 10.8 6.2 7.3 10.6 7.2 10.8 7.2 6.7 9.8 5.4 5.1 8.7 5 8.1 5 5.9
9.5 5.9 9.4 5.9 5.8 8.5 6.5 8.5 5.7 5.6 9.1 5 9.2 5 5.7 9 6 5.7 9.5 4.6 7.8 4.5 4.7 8.6 4.8 8 4.2 4.7 8.5 4.7 8.2 4.7
4.7 8.1 4.6 4.6 8.2 4.6 8.1 4.6 4.6 7.9 4.6 8.1 4.5 4.5 7.8 4.6 7.9 4.5 4.5 7.9 5 7.6 3.8 4.6 8.1 4.5 4.4 8 4.5 8.1 4.5
3.8 7.2 3.6 7.1 4.4 4.4 7.9 4.4 7.9 4.4 4.4 8 4.4 7.7 4.4 4.4 7.8 4.3 4.4 7.9 4.4 7.8 4.5 4.3 7.9 4.4 7.8 4.4 3.9 7.4
3.7 7.8 4.4 4.4 7.8 4.5 4.4 7.7 4.4 7 4.1 4.4 7 3.9 7.9 4.4 4.5 7.7 3.6 7.4 4.3 4.4 7.4 3.7 7 4.3 4 7.5 4.4 4.4 8.1 4.4
7.9 4.3 4.3 7.9 4.4 7.7 4.4 4.9 7.5 4.3 7.6 4.1 4.3 7 3.8 20.5 13.8 10.7 19.5 13 12.6 8.9 4.1 8.1 4.4 4.4 7.9 4.3 7.9
4.4 4.4 8 4.4 7.8 4.3 4.4 7.8 4.3 4.4 8 4.3 7.9 4.4 4.3 7.9 4.3 7.9 4.9 4.3 7.9 4.3 8 4.3 4.3 7.9 4.3 7.9 4.3 4.3 7.9
4.4 3.9 6.8 3.5 6.8 3.5 3.5 6.6 3.5 7 4.2 4.3 7.2 4 7.9 4.2 4.3 8 4.3 7.8 4.3 4.3 7.9 4.4 4.3 7.8 4.3 8.3 4.3 4.4 7.8
4.3 8 4.4 4.3 7.8 4.3 7.9 4.4 4.3 7.8 4.4 4.3 7.8 4.3 7 3.6 3.6 6.9 4 7.5 3.5 3.5 6.8 3.5 6.9 3.5 3.5 6.9 3.5 6.8 3.4
3.5 7.2 4.3 4.3 6.9 3.9 6.9 3.4 3.8 7.7 4.3 7.8 4.3 4.1 7.6 4.3 7 3.5 3.5 7.7 4.3 7.7 4.3 0.9
"""


def recorded_steps():
    """The same by step: what a line with a new chunk takes longer than its neighbours is the step that reads it."""
    lines = [float(word) for word in RECORDED.split()]
    ends = [25 * (i + 1) for i in range(len(lines) - 1)] + [25 * (len(lines) - 1) + 5]
    steps = []
    for i, end in enumerate(ends):
        begin = len(steps)
        each = lines[i] / (end - begin)
        opening = [step for step in range(begin, end) if step and step % 64 == 0]
        if opening:
            near = lines[i - 1] / 25 if i + 1 == len(lines) else min(lines[i - 1], lines[i + 1]) / 25
            each = min(each, near)
        steps += [each] * (end - begin)
        for step in opening:
            steps[step] += lines[i] - each * (end - begin)
    return steps


def chunked(steps, chunk, reading, step_seconds):
    """Seconds of each step; the first chunk was read before."""
    return [step_seconds(s) + (reading if s and s % chunk == 0 else 0) for s in range(steps)]


def followed(seconds, *, chunk_steps, first=0):
    """(step, seconds left as estimated, as they were, rate) after each step; a batch has 100 tokens."""
    steps = first + len(seconds)
    pace = Pace(first, steps, batch_tokens=100, chunk_tokens=100 * chunk_steps)
    ends, found = list(accumulate(seconds, initial=1000.0))[1:], []
    for step, end in enumerate(ends, start=first + 1):
        pace.ended(end)
        found.append((step, pace.seconds_left(), ends[-1] - end, pace.tokens_per_s()))
    return found


def worst(found, after):
    """The largest error of an estimate after so many steps, as a share of the truth."""
    return max(
        np.inf if left is None else abs(left - true) / true for step, left, true, _ in found[:-1] if step >= after
    )


@pytest.mark.parametrize("chunk", [16, 20, 64, 128])
def test_time_left_with_one_slow_step_a_chunk(chunk):
    found = followed(chunked(2000, chunk, 15.0, lambda s: 0.08), chunk_steps=chunk)
    assert worst(found, 200) < 0.01
    assert found[-1][1] == 0


def test_a_rate_always_has_reading_in_it():
    seconds = chunked(2000, 128, 15.0, lambda s: 0.08)
    rates = [rate for *_, rate in followed(seconds, chunk_steps=128)]
    assert rates[:128] == [None] * 128
    assert rates[128:] == pytest.approx([128 * 100 / (15.0 + 128 * 0.08)] * (2000 - 128))


def test_nothing_is_said_before_a_chunk_was_timed():
    found = followed(chunked(500, 128, 15.0, lambda s: 0.08), chunk_steps=128)
    assert [left for _, left, *_ in found[:128]] == [None] * 128
    assert found[128][1] == pytest.approx(found[128][2])


def test_a_run_within_its_first_chunk_knows_its_time_left_but_no_rate():
    found = followed([0.1] * 60, chunk_steps=128)
    assert found[0][1] is None  # not one step was timed
    assert worst(found, 2) < 0.01
    assert {rate for *_, rate in found} == {None}


def test_time_left_follows_members_that_become_five_times_faster():
    seconds = chunked(4000, 64, 1.0, lambda s: 0.25 if s < 600 else 0.05)
    found = followed(seconds, chunk_steps=64)
    assert worst(found, 600 + 2 * 64) < 0.25  # two chunks after the change
    assert worst(found, 1200) < 0.05
    alone = 64 * 100 / (1.0 + 64 * 0.05)
    assert found[1200][3] == pytest.approx(alone)


@pytest.mark.parametrize("first", [640, 650, 703])
def test_a_resumed_run_reads_its_chunk_anew_and_that_is_no_part_of_the_rate(first):
    seconds = chunked(2000, 64, 15.0, lambda s: 0.08)[first:]
    seconds[0] = 15.08 + 2.0  # the chunk anew, wherever in it this is; and whatever else the first step waits for
    found = followed(seconds, chunk_steps=64, first=first)
    assert worst(found, first + 66) < 0.01
    assert found[64][3] == pytest.approx(64 * 100 / (15.0 + 64 * 0.08))


@pytest.mark.parametrize("chunk_tokens", [65536, 1_000, 700, 96, 50])
def test_chunks_that_are_no_whole_number_of_batches(chunk_tokens):
    batch, steps = 300, 3000
    opened = [-(-(s + 1) * batch // chunk_tokens) + (-s * batch // chunk_tokens) for s in range(steps)]
    seconds = [0.1 + 0.01 * chunk_tokens * (n if s else 0) for s, n in enumerate(opened)]
    pace, ends, rates = Pace(0, steps, batch_tokens=batch, chunk_tokens=chunk_tokens), list(accumulate(seconds)), []
    for step, end in enumerate(ends, start=1):
        pace.ended(end)
        if 300 <= step < steps:
            assert pace.seconds_left() == pytest.approx(ends[-1] - end, rel=0.15)
            rates.append(pace.tokens_per_s())
    assert np.mean(rates) == pytest.approx(steps * batch / ends[-1], rel=0.1)


def test_time_left_on_recorded_times_is_within_a_quarter():
    seconds = recorded_steps()
    assert len(seconds) == 7455
    assert worst(followed(seconds, chunk_steps=64), len(seconds) // 10) < 0.25


class Slow:
    """A source whose every fourth batch takes 10 seconds of a clock that the test turns."""

    widths = {"h": 2}  # noqa: RUF012
    batch_tokens, chunk_tokens, size = 100, 400, 10**9

    def __init__(self):
        self.now = 0.0

    def batches(self, first, last):
        for step in range(first, last):
            self.now += 10.0 if step % 4 == 0 or step == first else 0.0
            yield None


def a_second_a_step(source):
    """A member that takes so long."""

    def update(*_):
        source.now += 1.0
        return ""

    return SimpleNamespace(
        entry=Entry("m", "h", "", 1.0), training=SimpleNamespace(lr=1.0), coefficient=1.0,
        halted_at=None, tokens=0, late=False, update=update, metrics=lambda dead: {},
    )  # fmt: skip


def test_training_logs_a_rate_over_whole_chunks_and_passes_the_time_left_on(monkeypatch):
    source, logged = Slow(), []

    monkeypatch.setattr(loop.time, "perf_counter", lambda: source.now)
    loop.train(
        [a_second_a_step(source)], source, Schedule(50, 0, 0, 0), first=6, logged=range(51), checkpoint_every=1000,
        dead_after_tokens=1, log=lambda rows: logged.append((rows[0], rows.seconds_left)), save=lambda step: None,
    )  # fmt: skip
    rates = [row["tokens_per_s"] for row, _ in logged]
    assert rates[:16] == [None] * 16  # 16 steps behind the first, which reads its chunk anew
    assert rates[16:] == [round(400 / 14, 1)] * (len(rates) - 16)
    end = logged[-1][0]["seconds"]
    assert all(left == pytest.approx(end - row["seconds"]) for row, left in logged[20:])


def test_while_members_catch_up_the_time_left_is_not_known(monkeypatch):
    """It was that to the step at which the others are, shown as that of the whole run."""
    source, left = Slow(), []

    monkeypatch.setattr(loop.time, "perf_counter", lambda: source.now)
    loop.train(
        [a_second_a_step(source)], source, Schedule(500, 0, 0, 0), first=0, upto=50, logged=range(51),
        checkpoint_every=1000, dead_after_tokens=1, log=lambda rows: left.append(rows.seconds_left),
        save=lambda step: None,
    )  # fmt: skip
    assert left == [None] * 50
