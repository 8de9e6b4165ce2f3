"""What a run has cost, where its members were not all trained at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import make as made

from unmix.report.data import read
from unmix.report.facts import summary
from unmix.report.spent import passes, rate, seconds
from unmix.training.run import sweep


def clock(run: Path, of: dict[str, list[tuple[int, float]]]) -> None:
    """Replace the metrics by rows at (step, second)."""
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    rows = [
        first | {"member": name, "l1": float(name[3:]), "step": step, "tokens": 100 * step, "seconds": at}
        for name, times in of.items()
        for step, at in times
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_members_that_were_trained_at_once_share_their_time(make):
    run = make(l1=(2.0, 5.0), steps=40)
    clock(run, {"l1-2": [(20, 10.0), (40, 20.0)], "l1-5": [(20, 10.0), (40, 20.0)]})
    assert passes(read(run)) == (20.0, 4000.0, True)
    assert rate(read(run), "sweep") == "200 tokens/s"
    assert "The sweep took 20 s for all 2 at once, 200 tokens/s." in summary(read(run))


def test_what_a_later_member_took_to_catch_up_is_added(make):
    """20 s of the one, 16 s of the other up to the same step, and 10 s of both from there."""
    run = make(l1=(2.0, 5.0), steps=60)
    clock(run, {"l1-2": [(20, 10.0), (40, 20.0), (60, 30.0)], "l1-5": [(20, 8.0), (40, 16.0), (60, 30.0)]})
    assert passes(read(run)) == (46.0, 10_000.0, False)
    assert "The sweep took 46 s for all 2, which were not all trained at once, 217 tokens/s." in summary(read(run))


def test_a_member_that_is_added_to_a_run_adds_its_time(overrides, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    sweep(made(overrides, training__l1=[3.0]), folder)
    first = seconds(read(folder), "sweep")
    sweep(made(overrides, training__l1=[3.0, 30.0]), folder)
    ends = [member.sweep["seconds"] for member in read(folder).members]
    assert all(any(round(at, 3) != at for at in of) for of in ends)  # two passes may end in the same millisecond
    alone = [of[-1] for of in ends]
    assert alone[0] == first
    assert seconds(read(folder), "sweep") == pytest.approx(sum(alone))
    assert not passes(read(folder)).at_once
