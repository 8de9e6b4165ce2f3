"""What a model is shown of a feature, and what it is tried on."""

from collections import Counter

import pytest
from explore.scripted_endpoint import bytes_of, record, texts_of, window

from unmix.explore import describe as module
from unmix.explore.describe_score import Score, detection_items, fuzzing_items
from unmix.explore.describe_text import CLOSE, HELD, OPEN, split, text_of


def test_overlapping_windows_are_one():
    found = record(uniform=0, band=0, top=0)
    same = [window(5, 6, p=p) for p in range(0, 60, 3)]  # each overlaps the next three
    found["groups"]["top"], found["groups"]["uniform"] = same, same[::-1]
    parts = split(found)
    spans = [range(w["p"], w["p"] + len(w["ids"])) for w in parts.shown + parts.held]
    assert len(parts.held) >= 2
    assert parts.shown
    assert all(not set(a) & set(b) for n, a in enumerate(spans) for b in spans[n + 1 :])


def test_few_firings_are_halved():
    parts = split(record(top=6, uniform=4, band=0))
    assert (len(parts.shown), len(parts.held)) == (6, 4)
    parts = split(record(top=2, uniform=6, band=0))
    assert (len(parts.shown), len(parts.held)) == (4, 4)
    assert len(split(record()).held) == HELD


def test_both_answers_are_equally_often_right():
    for seed in range(5):
        found = split(record(seed, uniform=7, near=3))
        for items in (detection_items(found, bytes_of, seed), fuzzing_items(found, bytes_of, seed)):
            assert Counter(item.right for item in items) == {True: len(items) // 2, False: len(items) // 2}
            assert items == (detection_items if items[0].text.count(OPEN) == 0 else fuzzing_items)(
                found, bytes_of, seed
            )
        assert detection_items(found, bytes_of, seed) != detection_items(found, bytes_of, seed + 1)


def test_wrong_marks_are_as_many_and_elsewhere():
    found = split(record())
    for item in fuzzing_items(found, bytes_of, 3):
        assert item.text.count(OPEN) == item.text.count(CLOSE) == 1
        assert (f"{OPEN} def{CLOSE}" in item.text) == item.right
        assert " def" in item.text


def test_a_window_that_fires_somewhere_is_not_silent():
    found = record(near=2, silent=0)
    found["groups"]["near"].append(window(9999, 3))
    assert len(split(found).silent) == 2


def test_masked_firings_are_not_marked():
    one = window(1, 5)
    one["v"].insert(0, [0, 90.0])
    one["m"] = [0]
    found = record(top=3, uniform=2, band=0)
    found["groups"]["top"] = [one, *found["groups"]["top"]]
    text = module.question(found, split(found), bytes_of)
    assert text.count(OPEN) == len(texts_of(text))


def test_strengths_are_of_what_counts():
    """A BOS with 90 times the value would make every other strength 1."""
    plain, masked = record(), record()
    for one in masked["groups"]["top"]:
        if one["c"]:
            one["v"].insert(0, [0, 90.0])
            one["m"] = [0]
    strengths = module.question(plain, split(plain), bytes_of)
    assert " 10" in strengths
    assert module.question(masked, split(masked), bytes_of) == strengths


@pytest.mark.parametrize(
    ("tokens", "marked", "text"),
    [
        (["a", "b", "c"], [1], "a⟦b⟧c"),
        (["a", "b", "c"], [0, 1], "⟦ab⟧c"),
        (["a", "b", "c"], [0, 2], "⟦a⟧b⟦c⟧"),
        (["a", "b"], [], "ab"),
        ([b"\xf0\x9f", b"\x99\x82", "!"], [0], "⟦🙂⟧!"),
        ([b"\xf0\x9f", b"\x99\x82", "!"], [1], "⟦🙂⟧!"),
        ([b"\x82", "a"], [0], "⟦�⟧a"),
        (["a\n\tb", "\u202e\0"], [1], r"a\n\tb⟦\u202e\x00⟧"),
        (["⟦x", "⟧"], [1], "[x⟦]⟧"),
    ],
)
def test_windows_as_text(tokens, marked, text):
    table = [token if isinstance(token, bytes) else token.encode() for token in tokens]
    given = {"ids": list(range(len(table)))}
    assert text_of(given, table.__getitem__, marked) == text


def test_the_standard_error_is_not_0_where_all_are_right():
    assert Score(16, 16).standard_error == pytest.approx(0.0671, abs=1e-4)
    assert Score(8, 16).standard_error == pytest.approx((0.25 / 20) ** 0.5)
