"""A sweep over L0: what was asked for beside what came, architectures side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from unmix.report import axes, facts, plots, trade_off, trained_on, write_report
from unmix.report.data import read
from unmix.report.panels import panels
from unmix.training.choice import choose

Make = Callable[..., Path]
FOUR = ("relu", "topk", "jumprelu", "gated")


def chosen(folder: Path, cap: float = 300) -> None:
    """A choice by the rule itself."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "choice.json").write_text(json.dumps(choose(rows, max_active=cap, predict_step=rows[-1]["step"])))


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_what_was_asked_for_stands_beside_what_came(make: Make) -> None:
    folder = make(l0=(20.0, 50.0), architectures=FOUR, steps=2000)
    chosen(folder)
    page = page_of(folder)
    assert re.search(r'<td class="text">topk</td>\s*<td>20</td>\s*<td>20\.\d</td>', page)
    assert re.search(r"asked L0</th>\s*<th scope=\"col\">active features</th>", page)
    assert "L1 penalty" not in page
    assert "L0 50</dd>" in page  # the headline
    assert "asked for, relu</dt>" in page
    assert ": relu, topk, jumprelu and gated, each asked for 20 and 50 active features per token." in page
    assert "The choice is L0 = 50, relu." in page
    assert "λ =" not in page


def test_a_coefficient_is_shown_where_a_controller_moved_it(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=FOUR, steps=2000)
    page = page_of(folder)
    assert "λ reached" in page
    assert re.search(r'<td class="text">topk</td>(\s*<td>[^<]+</td>){5}\s*<td></td>', page)
    assert (folder / "plots" / "coefficient.png").exists()
    [picture] = [p for p in plots.draw(read(folder)) if p.name == "coefficient"]
    assert "jumprelu" in picture.alt
    assert "topk" not in picture.alt
    only = make.__class__(folder / "other")(l0=(20.0,), architectures=("topk", "batchtopk"), steps=200)
    assert "coefficient" not in [picture.name for picture in plots.draw(read(only))]


def test_lines_are_variants_where_there_are_more_of_them_than_of_requests(make: Make) -> None:
    parts = panels(read(make(l0=(20.0, 50.0), architectures=FOUR, steps=200)))
    assert [(part.name, [line.label for line in part.lines]) for part in parts] == [
        ("L0 20", list(FOUR)),
        ("L0 50", list(FOUR)),
    ]
    assert len({line.colour for line in parts[0].lines}) == 4
    assert [line.colour for line in parts[0].lines] == [line.colour for line in parts[1].lines]


def test_lines_are_requests_where_there_is_one_variant(make: Make) -> None:
    [part] = panels(read(make(l0=(100.0, 20.0, 50.0), steps=200)))
    assert (part.name, [line.label for line in part.lines]) == ("", ["L0 20", "L0 50", "L0 100"])


def test_lines_of_coefficients_stay_by_variant(make: Make) -> None:
    folder = make(l1=(1.0,), steps=100)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    both = [{**row, "member": f"{name}-l1-1", "variant": name} for row in rows for name in ("plain", "wide")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    parts = panels(read(folder))  # a coefficient means something else in each
    assert [(part.name, [line.label for line in part.lines]) for part in parts] == [
        ("resid_post.3, plain", ["λ 1"]),
        ("resid_post.3, wide", ["λ 1"]),
    ]
    assert "nonzero_proportion" in [picture.name for picture in plots.draw(read(folder))]


def test_the_trade_off_has_a_panel_a_hook_and_a_line_a_variant(make: Make, monkeypatch: Any) -> None:
    figures = []
    monkeypatch.setattr(axes, "png", lambda figure: figures.append(figure) or b"")
    hooks = ("resid_post.3", "mlp_out.2")
    folder = make(hooks=hooks, l0=(20.0, 50.0), architectures=FOUR, steps=200)
    picture = trade_off.trade_off(read(folder))
    [figure] = figures
    assert len(figure.axes) == 2
    for panel in figure.axes:
        named = [line for line in panel.lines if line.get_label() in FOUR]
        assert [line.get_label() for line in named] == list(FOUR)
        assert all(len(line.get_xdata()) == 2 for line in named)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(FOUR)
    assert "L0 50 on mlp_out.2, gated: " in picture.alt
    assert "thin lines are the L0 asked for" in picture.caption


def test_a_point_far_from_what_was_asked_for_says_so(make: Make) -> None:
    run = read(make(l0=(20.0,), architectures=FOUR, steps=200))
    member = run.members[0]
    assert trade_off._label(run, member, {"l0": 21.0}) == ""
    assert trade_off._label(run, member, {"l0": 5.0}) == "asked for 20"
    assert trade_off._label(run, member, {"l0": 26.0}) == "asked for 20"


def test_a_variant_is_called_by_its_architecture_too_where_they_differ(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=("relu", "topk"), steps=200)
    about = yaml.safe_load((folder / "run.yaml").read_text())
    about["recipe"]["variants"] = {
        "plain": {"sae": {"nonlinearity": "relu"}},
        "topk": about["recipe"]["variants"]["topk"],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    metrics = (folder / "metrics.jsonl").read_text().replace('"relu', '"plain')
    (folder / "metrics.jsonl").write_text(metrics)
    run = read(folder)
    assert [run.called(variant) for variant in run.variants()] == ["plain (relu)", "topk"]
    about["recipe"]["variants"]["topk"]["sae"] = {"architecture": "relu", "features": 512}
    (folder / "run.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    run = read(folder)
    assert [run.called(variant) for variant in run.variants()] == ["plain", "topk"]
    assert "plain" in facts.summary(run)[0]


def test_facts_name_what_each_variant_is(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=("relu", "matryoshka", "jumprelu"), steps=200, sae={"auxk": 1 / 32})
    said = dict(trained_on.trained_on(read(folder)))
    assert said["Dictionary relu"] == "4,096 features, relu, decoder free, penalty weighted by its norms, AuxK 1/32"
    assert said["Dictionary matryoshka"].startswith(
        "4,096 features, matryoshka, decoder rows of norm 1, prefixes of 128, 384, 896, 1,920 and 4,096"
    )
    assert "bandwidth 0.05, thresholds from 0.01" in said["Dictionary jumprelu"]
    one = make.__class__(folder / "other")(l0=(20.0,), steps=200, sae={"architecture": "gated"})
    assert dict(trained_on.trained_on(read(one)))["Dictionary"] == "4,096 features, gated, decoder rows of norm 1"


def test_means_over_different_numbers_of_tokens_say_from_what_to_what(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=("relu", "batchtopk"), steps=200)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["over_tokens"] = 1600 if row["variant"] == "batchtopk" else 25_600
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    assert "Means over 1,600 to 25,600 tokens of the training stream" in page
    assert "a mean over 1,600 to 25,600 tokens" in page


def test_an_extension_of_a_member_with_an_l0_is_drawn(make: Make) -> None:
    folder = make(l0=(20.0, 50.0), architectures=FOUR, steps=400)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    more = [r | {"phase": "extend", "step": r["step"] + 400} for r in rows if r["member"] == "topk-l0-50"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + more))
    chosen(folder)
    page = page_of(folder)
    assert (folder / "plots" / "whole_length.png").exists()
    assert "L0 50, topk, extended to step 800" in page


def test_requests_of_both_kinds_stand_side_by_side(make: Make) -> None:
    folder = make(l0=(20.0,), architectures=("relu", "topk"), steps=200)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["variant"] == "relu":
            row |= {"member": "relu-l1-0.5", "l1": 0.5, "target_l0": None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen(folder)
    page = page_of(folder)
    assert '<th scope="col">asked for</th>' in page
    assert "<td>λ 0.5</td>" in page
    assert "<td>L0 20</td>" in page
    assert "with the penalty λ = 0.5 or asked for 20 active features per token" in page
    assert "L1 penalty" in page


@pytest.mark.parametrize("architectures", [(), FOUR])
def test_held_out_pictures_take_members_with_an_l0(make: Make, held: Any, architectures: tuple[str, ...]) -> None:
    folder = make(l0=(20.0, 50.0), architectures=architectures, steps=200)
    names = sorted({json.loads(line)["member"] for line in (folder / "metrics.jsonl").read_text().splitlines()})
    held.write(folder, held.result("resid_post.3", names))
    page = page_of(folder)
    assert f"Scatter plot: {names[0]}: L0" in page
