"""The report by norm: its numbers, its pictures, hostile tokens, and what is left out where nothing was measured."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from unmix.errors import UserError
from unmix.report import by_norm, hook_norms, words, write_report

Make = Callable[..., Path]
HOSTILE = "<script>alert(1)</script>\"'&${x}$_{{ 7*7 }}<img src=x onerror=alert(1)>"
NAMES = ["l1-0", "l1-1", "l1-5"]


class Tags(HTMLParser):
    """Every tag with its attributes, and the texts of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        self._inside = tag == "td"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def is_drawn(file: Path) -> bool:
    pixels = matplotlib.image.imread(file)
    ink = (pixels[..., :3].min(axis=2) < 0.85).mean()
    return bool(pixels.shape[1] > 700 and 0.001 < ink < 0.5)


def test_holds_the_numbers_of_the_three_groups(make: Make, held: Any) -> None:
    folder, result = make(l1=(5.0,), steps=60), held.result("resid_post.3", NAMES)
    held.write(folder, result)
    page = report(folder)
    cells = Tags(page).cells
    assert "<h2>By norm</h2>" in page
    assert "over 1,000 held-out tokens; mask: none" in page
    for name in NAMES:
        assert name in cells
        for group, row in result["saes"][name]["by_norm"]["groups"].items():
            wanted = [
                group,
                words.whole(row["tokens"]),
                f"{words.number(row['norm_from'])} – {words.number(row['norm_to'])}",
                words.number(row["l0"]),
                words.number(row["l1"]),
                words.fixed(row["explained_variance"]),
                words.fixed(row["cosine"]),
                words.fixed(row["norm_ratio"]),
                words.percent(row["share_of_loss"]),
                words.percent(row["share_of_penalty"]),
            ]
            assert any(cells[at : at + len(wanted)] == wanted for at in range(len(cells))), (name, group)


def test_pictures_are_on_disk_and_described(make: Make, held: Any) -> None:
    folder, result = make(l1=(5.0,), steps=60), held.result("resid_post.3", NAMES)
    held.write(folder, result)
    held.norms(folder)
    page = report(folder)
    images = [attributes for tag, attributes in Tags(page).tags if tag == "img"]
    files = sorted((folder / "plots").glob("*.png"))
    assert len(images) == len(files)
    for name in ("by_norm_deciles", "by_norm_l0", "by_norm_l1", "hook_norms"):
        assert is_drawn(folder / "plots" / f"{name}.png"), name
    assert all(len(image["alt"] or "") > 60 for image in images)
    share = result["saes"]["l1-1"]["by_norm"]["groups"]["top 1 %"]["share_of_loss"]
    assert f"the top 1 % {words.percent(share)}" in page  # for those who do not see the picture
    assert len(page) < 3_000_000
    assert report(folder) == page


def test_an_evaluation_from_before_says_nothing_by_norm(make: Make, held: Any) -> None:
    folder = make(l1=(5.0,), steps=60)
    held.write(folder, held.result("resid_post.3", NAMES, with_by_norm=False))
    page = report(folder)
    assert "Held out" in page
    assert "By norm" not in page
    assert "Norms of the activations" not in page
    assert not list((folder / "plots").glob("by_norm*"))


def test_some_dictionaries_without(make: Make, held: Any) -> None:
    folder, result = make(l1=(5.0,), steps=60), held.result("resid_post.3", NAMES)
    del result["saes"]["l1-1"]["by_norm"]
    held.write(folder, result)
    [section] = by_norm.sections({"hooks": [result]})
    assert [name for name, _ in section.table] == ["l1-0", "l1-5"]
    report(folder)


@pytest.mark.parametrize(("more", "x"), [({}, "x"), ({"target_width": 16}, "y")])
def test_the_norms_of_a_transcoder_are_those_of_its_targets(
    make: Make, held: Any, more: dict[str, int], x: str
) -> None:
    """The tokens are in order of ||y||; the table said that they were the activations of the lowest norms, ||x||."""
    folder, result = make(l1=(5.0,), steps=60), held.result("resid_post.3", NAMES) | more
    held.write(folder, result)
    said = report(folder).split("<h2>By norm")[1].split("</section>")[0]
    assert (f'<th scope="col">‖{x}‖</th>' in said, f"‖ / ‖{x}‖</th>" in said) == (True, True)
    assert ("the 1 % of the targets y with the lowest norms" in said) == (x == "y")
    assert f"Tokens in order of ‖{x}‖, a tenth each." in said


def test_several_hooks_have_a_section_each(make: Make, held: Any) -> None:
    hooks = ("resid_post.3", "mlp_out.2")
    folder = make(hooks=hooks, l1=(5.0,), steps=60)
    held.write(folder, *(held.result(hook, NAMES[:2]) for hook in hooks))
    held.norms(folder, hooks)
    page = report(folder)
    for hook in hooks:
        assert f"<h2>By norm: {hook}</h2>" in page
        assert f"<h3>The top 1 % of {hook}</h3>" in page
    assert len(list((folder / "plots").glob("by_norm_*_[01].png"))) == 6


def test_many_dictionaries_are_tabled_and_six_drawn(held: Any) -> None:
    result = held.result("resid_post.3", [f"l1-{at}" for at in range(9)])
    [section] = by_norm.sections({"hooks": [result]})
    assert len(section.table) == 9
    assert all("6 of 9 dictionaries" in picture.caption for picture in section.pictures)
    assert section.pictures[0].alt.count("the top tenth by norm") == 6


@pytest.mark.parametrize("count", range(1, 40))
def test_those_drawn_are_spread_out(count: int) -> None:
    places = by_norm.spread_out(count)
    assert len(places) == min(count, by_norm.MOST)
    assert (places[0], places[-1]) == (0, count - 1)


def test_a_dictionary_that_is_silent_or_perfect(make: Make, held: Any) -> None:
    """Nothing to divide by: numbers are null, the page has dashes."""
    folder, result = make(l1=(5.0,), steps=60), held.result("resid_post.3", NAMES)
    for group in result["saes"]["l1-1"]["by_norm"]["groups"].values():
        group |= {"share_of_loss": None, "share_of_penalty": None, "explained_variance": None, "l0": 0.0, "l1": 0.0}
        for name in ("l0", "l1"):
            group[f"{name}_proportions"] = [1.0]
    for row in result["saes"]["l1-1"]["by_norm"]["deciles"]:
        row |= {"share_of_loss": None, "explained_variance": None, "norm_ratio": None}
    result["saes"]["l1-1"]["by_norm"] |= {"l0_edges": [0, 1], "l1_edges": [0.0, 1.0]}
    held.write(folder, result)
    assert "–" in Tags(report(folder)).cells
    alone = {"hooks": [{"hook": "h", "saes": {"l1-1": result["saes"]["l1-1"]}}]}
    assert len(by_norm.sections(alone)[0].pictures) == 3


def test_tokens_places_and_sinks(make: Make, held: Any) -> None:
    folder = make(l1=(5.0,), steps=60)
    found = held.norms(folder)["hooks"]["resid_post.3"]
    page = report(folder)
    cells = Tags(page).cells
    assert "2,000 tokens of the train split" in page
    assert "20 tokens of norm" in page
    for sentence in found["sinks"]:
        assert sentence.replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert any(sentence.startswith("newline") for sentence in found["sinks"])
    for token in found["top_tokens"]:
        wanted = [repr(token["token"]), words.whole(token["in_top"]), words.whole(token["occurrences"])]
        wanted += [words.percent(token["share_of_top"]), words.number(token["lift"])]
        wanted.append(words.number(token["mean_over_median"]))
        assert any(cells[at : at + 6] == wanted for at in range(len(cells))), token
    for name in ("first position", "BOS or separator inside", "newline", "all other tokens", "position 1"):
        assert name in cells
    assert "positions 32 to 49" in cells
    assert "script" not in {tag for tag, _ in Tags(page).tags}


def test_norms_stand_behind_the_training_curves_and_are_no_larger(make: Make, held: Any) -> None:
    folder = make(l1=(5.0,), steps=60)
    held.norms(folder)
    page = report(folder)
    assert page.index("<h2>Training</h2>") < page.index("<h2>Norms of the activations</h2>")
    area = {path.stem: np.prod(matplotlib.image.imread(path).shape[:2]) for path in (folder / "plots").glob("*.png")}
    assert area.pop("hook_norms") <= 1.2 * max(area.values())


def test_a_run_without_sinks_says_so(make: Make, held: Any) -> None:
    folder = make(l1=(5.0,), steps=60)
    found = held.norms(folder)
    found["hooks"]["resid_post.3"]["sinks"] = []
    (folder / "norms.json").write_text(json.dumps(found))
    assert "No place and no token stands out" in report(folder)


def test_hostile_tokens_and_names_are_only_text(make: Make, held: Any) -> None:
    folder = make(hooks=(HOSTILE,), l1=(1.0,), steps=60)
    held.write(folder, held.result(HOSTILE, ["<i onload=x>$_{{7}}$", "l1-1"]))
    found = held.norms(folder, (HOSTILE,), token=HOSTILE)
    found |= {"split": HOSTILE, "mask": HOSTILE}
    found["hooks"][HOSTILE]["sinks"].append(HOSTILE)
    (folder / "norms.json").write_text(json.dumps(found))
    page = report(folder)
    tags = Tags(page).tags
    assert [name for name, _ in tags].count("script") == 1  # the page's own, which sorts a table
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert f"script-src 'sha256-{digest}'; " in policy
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert all((a.get("src") or "data:").startswith("data:image/png") for name, a in tags if name == "img")
    assert "{{ 7*7 }}" in page
    assert "&lt;script&gt;" in page


def test_what_does_not_print_is_shown_as_an_escape() -> None:
    assert hook_norms.shown("\n\t ") == r"'\n\t '"
    assert hook_norms.shown("a\u202eb\u200b\x00") == r"'a\u202eb\u200b\x00'"  # turns the text around; hides; ends it
    assert len(hook_norms.shown(" " * 500)) == hook_norms.LONGEST_TEXT


def test_norms_of_other_hooks_are_left_out(make: Make, held: Any) -> None:
    folder = make(l1=(5.0,), steps=60)
    held.norms(folder, ("resid_post.1",))
    assert "Norms of the activations" not in report(folder)
    held.norms(folder, ("resid_post.1", "resid_post.3"))
    assert "resid_post.1" not in report(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"hooks": 3}', "\udcff"])
def test_damaged_norms_are_named(make: Make, content: str) -> None:
    folder = make(l1=(5.0,), steps=60)
    (folder / "norms.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"norms\.json.*remove it"):
        write_report(folder)
