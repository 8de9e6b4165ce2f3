"""What the captions say of units: how what is given back is scaled, and which L1 it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmix.report import plots, write_report
from unmix.report.data import read


def captions(run: Path) -> dict[str, str]:
    return {picture.name: picture.caption for picture in plots.draw(read(run))}


def in_variants(run: Path, **own: dict[str, Any]) -> None:
    """Give the members of a run to variants with these keys of `sae`."""
    about = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    about["recipe"]["variants"] = {name: {"sae": keys} for name, keys in own.items()}
    (run / "run.yaml").write_text(yaml.safe_dump(about))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"variant": name, "member": f"{name}-{row['member']}"} for row in rows for name in own]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ("none", "on the inputs as the dictionary sees them (not scaled)."),
        ("dataset", "(scaled by one number so that their mean square norm is their width)."),
        ("token", "on the inputs as the dictionary sees them (each scaled to the root of its width)."),
    ],
)
def test_the_loss_is_in_the_units_of_the_scaling(make, scaling, said):
    """A scale per token was said to be none."""
    assert said in captions(make(l1=(2.0,), steps=400, sae={"scaling": scaling}))["l2_reconstruction_loss"]


def test_variants_that_are_scaled_differently_are_told_apart(make):
    run = make(l1=(2.0,), steps=400)
    in_variants(run, raw={"scaling": "none"}, even={"scaling": "token"})
    said = captions(run)["l2_reconstruction_loss"]
    assert "(raw: not scaled; even: each scaled to the root of its width)" in said


def test_the_loss_of_a_transcoder_is_of_its_targets(make):
    run = make(l1=(2.0,), steps=400)
    about = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))
    about["recipe"]["activations"] |= {"rows": "given", "targets": "given"}
    (run / "run.yaml").write_text(yaml.safe_dump(about))
    said = captions(run)
    assert "the width of the target, on the targets as the dictionary is to give them" in said["l2_reconstruction_loss"]
    assert said["explained_variance"].startswith("Share of the targets' variance")


@pytest.mark.parametrize(
    ("sae", "caption", "meaning"),
    [
        ({}, "each times the norm of its decoder row. It is shown before the multiplication with λ", "before λ. As"),
        ({"architecture": "tanh_relu"}, "Summed feature activations per token. It is shown before", "before λ.</dd>"),
        ({"architecture": "jumprelu"}, "λ multiplies another penalty.", "λ multiplies another penalty.</dd>"),
        ({"architecture": "gated"}, "λ multiplies another penalty.", "λ multiplies another penalty.</dd>"),
    ],
)
def test_an_l1_that_is_no_penalty_is_not_called_one(make, sae, caption, meaning):
    run = make(l1=(2.0,), steps=400, sae=sae)
    assert caption in captions(run)["l1_penalty"]
    page = write_report(run).read_text(encoding="utf-8")
    assert meaning in page
    assert ("L1 penalty" in page) == ("before λ" in meaning)


def test_variants_with_other_penalties_are_said(make):
    run = make(l1=(2.0,), steps=400)
    in_variants(run, relu={}, tanh={"architecture": "tanh_relu"}, jump={"architecture": "jumprelu"})
    said = captions(run)["l1_penalty"]
    assert "each times the norm of its decoder row where the penalty weighs it so." in said
    assert "λ multiplies another penalty of some of the variants." in said
