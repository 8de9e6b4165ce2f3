"""Variants with numbers of features of their own: shares, caps and scales are each of its own dictionary's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from unmix.report import axes, plots, whole_length, write_report
from unmix.report.data import read

CAP, F = 300, 4096


@pytest.fixture
def run(make) -> Path:
    """A narrow variant, of half the features, beside the recipe's."""
    folder: Path = make(l1=(2.0,), steps=400, cap=CAP)
    about = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    about["recipe"]["variants"] = {"wide": {"sae": {}}, "narrow": {"sae": {"features": F // 2}}}
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own = [row | {"variant": name, "member": f"{name}-l1-2"} for row in rows for name in ("wide", "narrow")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


def test_the_cap_is_a_share_of_the_features_of_each_variant(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(axes, "cap_line", lambda panel, value, text="": drawn.append(value))
    pictures = {picture.name: picture for picture in plots.draw(read(run))}
    assert drawn[:4] == [CAP / F, CAP / (F // 2)] * 2
    assert "Share of the 2,048 to 4,096 features that are active" in pictures["nonzero_proportion"].caption


def test_the_scale_of_shares_is_that_of_the_dictionary(run, monkeypatch):
    factors = []
    monkeypatch.setattr(axes, "right_scale", lambda panel, factor, label: factors.append(factor))
    found = read(run)
    for member in found.members:
        whole_length.whole_length(found, member, "picture")
    assert factors == [1 / F, 1 / (F // 2)]


def test_the_page_divides_by_all_of_them(run):
    assert "Active features divided by all 2,048 to 4,096 features." in write_report(run).read_text(encoding="utf-8")
