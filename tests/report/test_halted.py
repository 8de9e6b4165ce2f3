"""A run with a member that numbers gone wrong halted: it has rows to the end, over no token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from unmix.report.data import read
from unmix.report.facts import averaged_over, summary
from unmix.report.picture import averaged, tokens_per_step

BATCH = 2048
MEANS = ("loss", "l2_reconstruction_loss", "l1_penalty", "nonzero_proportion", "l0", "explained_variance")


def halt(run: Path, member: str, batch: int) -> None:
    """Its rows behind that batch, as training writes them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["member"] == member and row["step"] > batch:
            row |= dict.fromkeys(MEANS, math.nan) | {"over_tokens": 0, "tokens": batch * BATCH, "halted_at": batch}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_axis_of_tokens_is_not_that_of_the_member_that_saw_none(make):
    run = make(l1=(0.0, 2.0), steps=600)
    halt(run, "l1-0", 100)
    found = read(run)
    assert tokens_per_step(found.members) == BATCH


def test_no_mean_is_over_no_token(make):
    run = make(l1=(0.0, 2.0), steps=600)
    halt(run, "l1-0", 100)
    assert averaged_over(read(run)) == "102,400"
    assert averaged(read(run)).startswith("Means over 102,400 tokens of the training stream")


def test_the_page_says_who_was_halted(make):
    run = make(l1=(0.0, 2.0), steps=600)
    assert "halted" not in " ".join(summary(read(run)))
    halt(run, "l1-0", 100)
    assert "λ = 0 was halted by batch 100, whose numbers were not finite or stood out: " in " ".join(summary(read(run)))
    assert read(run).members[0].halted_at == pytest.approx(100)
