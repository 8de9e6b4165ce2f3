"""Reading a run folder: whole, torn, missing, damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unmix.errors import UserError
from unmix.report.data import read

Make = Callable[..., Path]


def test_reads_members_in_order_of_the_penalty(make: Make) -> None:
    run = read(make(l1=(5.0, 0.0, 2.0), steps=200))
    assert [member.name for member in run.members] == ["l1-0", "l1-2", "l1-5"]
    assert run.step == 200
    assert run.features == 4096
    assert len(run.members[0].sweep) == 10


def test_leaves_out_a_torn_last_line_wherever_it_is_torn(make: Make) -> None:
    folder = make(l1=(1.0,), steps=100)
    metrics = folder / "metrics.jsonl"
    whole = metrics.read_bytes()
    last = whole.rstrip(b"\n").rsplit(b"\n", 1)[1]
    for cut in range(1, len(last) + 1, 7):
        metrics.write_bytes(whole[: -1 - cut])
        assert read(folder).step == 80


def test_a_damaged_line_amid_is_named(make: Make) -> None:
    folder = make(l1=(1.0,), steps=100)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:10]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 3"):
        read(folder)


def test_a_row_written_again_after_a_resume_counts_once(make: Make) -> None:
    folder = make(l1=(1.0,), steps=100)
    again = {**json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]), "l0": 7.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    sweep = read(folder).members[0].sweep
    assert len(sweep) == 5
    assert sweep.last()["l0"] == 7.0


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "x", True])
def test_what_is_no_number_is_nan(make: Make, value: object) -> None:
    folder = make(l1=(1.0,), steps=40)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["l0"] = value
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    l0 = read(folder).members[0].sweep["l0"]
    assert np.isfinite(l0).tolist() == [True, False]


def test_the_step_is_the_last_that_all_have_logged(make: Make) -> None:
    folder = make(l1=(0.0, 1.0), steps=100)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")  # the second member's last row is not there yet
    assert read(folder).step == 80


def test_the_extension_takes_the_place_of_the_decayed_tail(make: Make) -> None:
    member = read(make(steps=1000, extend_to=3000, chosen=5.0)).member("l1-5")
    assert member is not None
    whole = member.whole()["step"]
    assert (np.diff(whole) == 20).all()
    assert whole[-1] == 3000
    assert member.dropped()["step"].tolist() == list(range(800, 1001, 20))


def test_the_extension_is_found_without_its_description(make: Make) -> None:
    folder = make(steps=1000, extend_to=3000, chosen=5.0)
    (folder / "extension.json").unlink()
    member = read(folder).member("l1-5")
    assert member is not None
    assert (np.diff(member.whole()["step"]) == 20).all()


def test_mistakes_end_in_one_line(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder: it has no run\\.yaml"):
        read(tmp_path)
    folder = make(l1=(1.0,), steps=40)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no metrics yet"):
        read(folder)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics yet"):
        read(folder)
    (folder / "run.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is damaged"):
        read(folder)
    (folder / "run.yaml").write_text("just words")
    with pytest.raises(UserError, match="it holds no recipe"):
        read(folder)
    (folder / "run.yaml").write_text(
        "a: &a [x, x]\n"
        + "".join(f"k{n}: &k{n} [*k{n - 1}, *k{n - 1}]\n" if n else "k0: &k0 [*a, *a]\n" for n in range(30))
    )
    with pytest.raises(UserError, match="stands for more than"):
        read(folder)
