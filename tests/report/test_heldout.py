"""What the report shows of an evaluation whose ratios mean nothing."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from unmix import open_run
from unmix.errors import UserError
from unmix.evaluation.subject import UNKNOWN_SPLIT
from unmix.report import heldout, words
from unmix.report.data import read
from unmix.report.html import write_report


def test_a_loss_recovered_that_is_not_given_is_no_number_in_the_report(make: Any, held: Any) -> None:
    run: Path = make()
    result = held.result("resid_post.3", ["l1-2", "l1-5"])
    result["saes"]["l1-2"]["loss_recovered_zero"] = None
    held.write(run, result)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<td>0\.970, (nan|–)</td>", page)
    assert "<td>0.970, 0.980</td>" in page


def test_error_bars_say_what_they_are_clustered_by(make: Any, held: Any) -> None:
    run: Path = make()
    result = held.result("resid_post.3", ["l1-2"])
    for key, said in ((None, "by sequence"), ("ce_documents", "by document")):
        (run / "evaluation.json").write_text(json.dumps({"hooks": [result | ({key: 12} if key else {})]}))
        write_report(run)
        assert f"two standard errors, {said}" in (run / "report.html").read_text(encoding="utf-8")


def checkpoints(run: Path, **steps: int) -> dict[str, str]:
    """A checkpoint of each member on disk; what `evaluation.json` says of them."""
    found = {}
    for name, step in steps.items():
        path = run / "members" / name.replace("_", "-") / f"step-{step:09}"
        path.mkdir(parents=True)
        (path / "cfg.json").write_text("{}")
        found[name.replace("_", "-")] = str(path.relative_to(run))
    return found


def page_of(run: Path, held: Any, known: dict[str, str] | None) -> str:
    more = {} if known is None else {"checkpoints": known}
    hooks = [held.result("resid_post.3", ["l1-2", "l1-5"])]
    (run / "evaluation.json").write_text(json.dumps(more | {"hooks": hooks}))
    write_report(run)
    return html.unescape((run / "report.html").read_text(encoding="utf-8"))


def test_an_evaluation_from_before_an_extension_says_so_with_the_command(make: Any, held: Any) -> None:
    run: Path = make(extend_to=9000, chosen=5.0)
    known = checkpoints(run, l1_2=6000, l1_5=6000)
    assert "Evaluated before" not in page_of(run, held, known)
    checkpoints(run, l1_5_extended=9000)
    for was in (known, None):  # older evaluations name no checkpoints
        page = page_of(run, held, was)
        assert "Evaluated before the extension: l1-5-extended is not in these numbers." in page
        assert f"run <code>unmix evaluate {shlex.quote(str(run))}</code>" in page


@pytest.mark.parametrize("content", ["{", "[]", '{"mine": 1}', "[" * 100_000, '"hooks"'])
def test_an_evaluation_that_is_none_is_one_line(make: Any, content: str) -> None:
    run: Path = make()
    (run / "evaluation.json").write_text(content)
    for read_it in (write_report, lambda folder: open_run(folder).evaluation()):
        with pytest.raises(UserError, match=r"evaluation\.json (is damaged|was not written by unmix)"):
            read_it(run)


def test_a_page_claims_no_split_that_is_unknown(make: Any, held: Any) -> None:
    """A run on rows that is evaluated in a model: training may have seen the documents."""
    run: Path = make()
    result = held.result("resid_post.3", ["l1-2", "l1-5"])
    for split, claims in (("held_out", True), (UNKNOWN_SPLIT, False)):
        (run / "evaluation.json").write_text(json.dumps({"hooks": [result | {"split": split}]}))
        write_report(run)
        page = html.unescape((run / "report.html").read_text(encoding="utf-8"))
        said = page[page.index("<h2>Held out" if claims else "<h2>Evaluated") : page.index("<h2>How to read")]
        assert ("kept out of training" in said, "held-out tokens" in said) == (claims, claims)
        assert (f"tokens (split {UNKNOWN_SPLIT})" in said) != claims
        [pictures] = heldout.draw_evaluation({"hooks": [result | {"split": split}]}, read(run))
        assert [picture.title.startswith("Held out: ") for picture in pictures] == [claims] * 3


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ({"corpus": "other/"}, "evaluated on other/."),
        ({"model": "gpt2"}, "evaluated in the model gpt2."),
        ({"corpus": "other/", "model": "gpt2"}, "evaluated in the model gpt2 and on other/."),
        ({"corpus_keys": {"field": "content"}}, "evaluated with corpus.field = content."),
        ({}, None),
    ],
    ids=str,
)
def test_a_page_says_that_an_evaluation_is_of_something_else(
    make: Any, held: Any, on: dict[str, Any], said: str
) -> None:
    """`unmix evaluate RUN --corpus OTHER` looked like one of the documents that were held out of the training."""
    run: Path = make(model="embedded", source="stdlib")
    more = {"corpus": "stdlib", "model": "embedded"} | on
    hooks = [held.result("resid_post.3", ["l1-2", "l1-5"])]
    (run / "evaluation.json").write_text(json.dumps(more | {"hooks": hooks}))
    page = html.unescape(write_report(run).read_text(encoding="utf-8"))
    assert ("Not on what was trained on" in page) == (said is not None)
    assert said is None or f"Not on what was trained on: {said}" in page


def test_an_evaluation_of_earlier_checkpoints_names_them(make: Any, held: Any) -> None:
    run: Path = make()
    known = checkpoints(run, l1_2=6000, l1_5=6000)
    checkpoints(run, l1_2=8000, l1_5=8000)
    assert "before the newest checkpoints: those of l1-2 and l1-5 are not of the newest" in page_of(run, held, known)


HOOKS = ("resid_post.3", "mlp_out.2")


def test_pictures_stand_in_the_section_of_their_hook_and_findings_in_one_item_a_dictionary(
    make: Any, held: Any
) -> None:
    run: Path = make(hooks=HOOKS, l1=(2.0, 5.0))
    results = [held.result(hook, [f"{hook}-plain-l1-2", f"{hook}-wide-l1-5"]) for hook in HOOKS]
    results[0]["findings"][f"{HOOKS[0]}-plain-l1-2"] = ["One thing.", "And another."]
    held.write(run, *results)
    held.norms(run, HOOKS)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    for hook in HOOKS:
        [part] = [part for part in page.split("<section>") if f"<h2>Held out: {hook}</h2>" in part]
        assert part.count("<figure>") == 3
        assert 'alt="Scatter plot: plain-l1-2: L0' in part  # the hook is in the heading
    assert f"<li><strong>{HOOKS[0]}-plain-l1-2</strong>: One thing. And another.</li>" in page
    assert not re.search(r'<div class="pictures">\s*<div class="pictures">', page)  # a quarter as wide as the page


def test_error_bars_are_whole(held: Any) -> None:
    result = held.result("resid_post.3", ["l1-2", "l1-5"])
    for row, delta in zip(result["saes"].values(), (5.0, 4.5), strict=True):
        row |= {"delta_ce": delta, "delta_ce_standard_error": 0.6}
    figure, panel = heldout._figure("A title", result, "")
    heldout._points(figure, panel, result, "delta_ce", "delta_ce_standard_error", {})
    low, high = panel.get_ylim()
    assert low <= 4.5 - 1.2
    assert high >= 5.0 + 1.2


def test_what_is_rounded_to_nothing_has_no_sign() -> None:
    assert [words.fixed(value) for value in (-0.0002, -0.0006, 0.0)] == ["0.000", "−0.001", "0.000"]
