"""The eight features that a report shows: picked by the stated rule, as text, from the explorer's site."""

from pathlib import Path

import pytest

from unmix.errors import UserError
from unmix.explore.pack import script
from unmix.report import write_report
from unmix.report.features import Segment, _Words, picked, section, visible

BYTES = {"1": "a", "2": " b", "3": "\xf0\x9f", "4": "\x98\x80", "5": "<c>\n", "6": "\xe2\x80\xae"}


def record(i: int, density: float, firings: int, reach: float, mean: float = 1.0) -> dict:
    window = {"s": 0, "p": 0, "c": 1, "ids": [0, 1, 3, 4, 5], "v": [[1, 2.0], [3, 0.9]], "m": [0]}
    return {
        "i": i, "density": density, "firings": firings, "max": 2.0, "mean": mean, "label": f"label {i}",
        "groups": {"top": [window] * 3, "uniform": [window]}, "logits": {"plus": [[2, reach]], "minus": []},
    }  # fmt: skip


RECORDS = [
    record(0, 0.5, 500, 1.0), record(1, 0.09, 90, 1.0), record(2, 0.08, 80, 9.0), record(3, 0.07, 70, 8.0),
    record(4, 0.06, 60, 7.0), record(5, 0.01, 10, 1.0), record(6, 0.011, 11, 1.0), record(7, 0.001, 1, 1.0),
    record(8, 0.02, 20, 1.0), record(9, 0.03, 30, 1.0),
]  # fmt: skip


def test_the_rule():
    found = picked(RECORDS, seed=3)
    assert [(why, r["i"]) for why, r in found[:6]] == [
        ("frequent", 1), ("frequent", 2),  # 0 is on half of all tokens
        ("rare", 5), ("rare", 6),  # 7 fired once
        ("writes most", 3), ("writes most", 4),  # 2 is there already
    ]  # fmt: skip
    assert [why for why, _ in found[6:]] == ["at random"] * 2
    assert len({r["i"] for _, r in found}) == 8
    assert found == picked(RECORDS, seed=3)
    assert {r["i"] for seed in range(20) for _, r in picked(RECORDS, seed)[6:]} == {0, 7, 8, 9}


def test_what_writes_most_does_not_depend_on_the_length_of_decoder_rows():
    moved = [record(r["i"], r["density"], r["firings"], r["logits"]["plus"][0][1] / c, c) for r, c in
             zip(RECORDS, (1.0, 7.0, 0.1, 20.0, 3.0, 0.5, 1.0, 1.0, 0.01, 4.0), strict=True)]  # fmt: skip
    assert [(why, r["i"]) for why, r in picked(moved, 3)] == [(why, r["i"]) for why, r in picked(RECORDS, 3)]


def test_fewer_features_than_places_and_none():
    assert [r["i"] for _, r in picked(RECORDS[:2], 0)] == [1, 0]
    assert picked([], 0) == []


def test_tokens_that_share_a_character_are_one_segment_with_the_larger_value():
    words = _Words({"special": {"0": "<|endoftext|>"}, "bytes": BYTES})
    window = {"ids": [0, 1, 3, 4, 5], "v": [[1, 2.0], [3, 0.9]], "c": 3}
    assert words.line(window, 2.0) == [
        Segment("<|endoftext|>", 0, False),
        Segment("a", 4, False),
        Segment("\U0001f600", 2, True),
        Segment("<c>↵", 0, False),
    ]
    assert words.line({"ids": [3], "v": [], "c": 0}, 2.0) == [Segment("\\xf0\\x9f", 0, True)]
    assert words.token(6) == "\\u202e"


def test_what_cannot_be_seen_is_named():
    assert visible("a\tb\u200bc\x00") == "a→b\\u200bc\\u0000"


def site_in(run: Path, chosen: str | None) -> None:
    site = run / "explore/site"
    (site / "m/f").mkdir(parents=True)
    manifest = {
        "fingerprint": "ab",
        "chosen": chosen,
        "members": [{"name": "m"}],
        "tokens": {"counted": 1000, "mask": "<none>", "context": 16},
    }
    (site / "manifest.js").write_bytes(script("manifest", manifest, packed=False))
    (site / "vocabulary.js").write_bytes(script("vocabulary", {"special": {"0": "<s>"}, "bytes": BYTES}))
    (site / "m/f/00000.js").write_bytes(script("m/f/00000", RECORDS[:5]))
    (site / "m/f/00001.js").write_bytes(script("m/f/00001", [*RECORDS[5:], record(10, 0.0, 0, 0.0)]))


def test_a_site_is_read_whoever_was_chosen(tmp_path):
    assert section(tmp_path) is None
    site_in(tmp_path, None)
    found = section(tmp_path)
    assert found is not None
    assert (found.member, found.tokens, len(found.features)) == ("m", 1000, 8)
    first = found.features[0]
    assert first.address == "explore/site/index.html#/m/m/f/1"
    assert (len(first.strongest), len(first.drawn), first.raises) == (2, 1, [" b"])


def test_a_damaged_site_is_named_with_the_remedy(tmp_path):
    site_in(tmp_path, "m")
    (tmp_path / "explore/site/vocabulary.js").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"site is damaged .* unmix explore .* --build"):
        section(tmp_path)


def test_features_of_the_explorer_are_shown_and_linked_with_their_text_escaped(make) -> None:
    folder = make(steps=40)
    without = write_report(folder).read_text()
    assert "What was learned" not in without
    site_in(folder, None)
    page = write_report(folder).read_text()
    assert "<h2>What was learned: eight features of m</h2>" in page
    assert 'href="explore/site/index.html#/m/m/f/1"' in page
    assert "&lt;c&gt;↵" in page
    assert "<c>" not in page
    assert "&lt;none&gt;" in page
