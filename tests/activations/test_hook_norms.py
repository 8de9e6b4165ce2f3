"""Norms from arrays alone: planted tokens and nothing else are the top 1 %, and every count is one that can be made."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.activations.norms import by_length, distribution, log_edges, of_hook, top_count

BOS, NEWLINE, INDENT = 0, 10, 11
TEXTS = {BOS: "<|endoftext|>", NEWLINE: "\n", INDENT: "\n    "}


def decode(kind: int) -> str:
    return TEXTS.get(kind, f" w{kind}")


def made(sequences=100, length=40, seed=0):
    """Norms around 1, ids and positions; no token is a newline yet."""
    rng = np.random.default_rng(seed)
    ids_NT = rng.integers(20, 120, size=(sequences, length))
    ids_NT[:, 0] = BOS
    norm_NT = rng.lognormal(0, 0.1, size=(sequences, length)).astype(np.float32)
    return norm_NT, ids_NT, np.tile(np.arange(length), (sequences, 1))


def of(norm_NT, ids_NT, positions_NT):
    norm_R = norm_NT.ravel()
    edges = log_edges(float(norm_R.min()), float(norm_R.max()))
    return of_hook(norm_R, ids_NT.ravel(), positions_NT.ravel(), bos_id=BOS, decode=decode, edges=edges)


def test_exactly_the_planted_tokens_are_named():
    norm_NT, ids_NT, positions_NT = made()
    ids_NT[ids_NT >= 118] = 20
    rng = np.random.default_rng(1)
    at = rng.choice(100 * 39, 40, replace=False)  # 40 of 4,000: 1 %
    n, t = at // 39, 1 + at % 39
    ids_NT[n, t] = np.where(np.arange(40) % 4, 118, 119)
    norm_NT[n, t] *= 100
    found = of(norm_NT, ids_NT, positions_NT)
    assert found["top_count"] == 40
    assert {(row["token"], row["in_top"], row["occurrences"]) for row in found["top_tokens"]} == {
        (" w118", 30, 30),
        (" w119", 10, 10),
    }
    assert [row["lift"] for row in found["top_tokens"]] == pytest.approx([100, 100])
    assert found["top_from"] == norm_NT[n, t].min()
    assert found["share_of_square_in_top"] > 0.98
    assert [sentence.split(":")[0] for sentence in found["sinks"]] == ["' w118'", "' w119'"]


def test_equal_norms_do_not_blur_the_top():
    """Every planted token has one and the same norm, and so have all the others."""
    norm_NT, ids_NT, positions_NT = made()
    norm_NT[:] = 1
    ids_NT[::5, 7::20] = 119
    ids_NT[ids_NT == 119] = np.where(np.arange((ids_NT == 119).sum()) < 40, 119, 20)
    norm_NT[ids_NT == 119] = 100
    assert (norm_NT == 100).sum() == 40
    found = of(norm_NT, ids_NT, positions_NT)
    assert [(row["token"], row["in_top"]) for row in found["top_tokens"]] == [(" w119", 40)]


@given(n=st.integers(1, 5000))
def test_the_top_holds_one_in_a_hundred_rounded_up(n):
    assert top_count(n) == -(-n // 100)
    assert 100 * (top_count(n) - 1) < n <= 100 * top_count(n)


def test_of_equal_norms_the_earlier_is_the_shorter():
    assert by_length(np.array([2.0, 1.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2]


@settings(deadline=None, max_examples=20)
@given(sequences=st.integers(1, 12), length=st.integers(1, 30), seed=st.integers(0, 99))
def test_every_count_against_one_made_by_hand(sequences, length, seed):
    norm_NT, ids_NT, positions_NT = made(sequences, length, seed)
    rng = np.random.default_rng(seed)
    ids_NT[:, 1:][rng.random((sequences, length - 1)) < 0.2] = NEWLINE
    ids_NT[:, 1:][rng.random((sequences, length - 1)) < 0.1] = INDENT
    ids_NT[:, 1:][rng.random((sequences, length - 1)) < 0.1] = BOS
    found = json.loads(json.dumps(of(norm_NT, ids_NT, positions_NT), allow_nan=False))
    rows = [
        (float(norm), i, int(kind), int(position))
        for i, (norm, kind, position) in enumerate(
            zip(norm_NT.ravel(), ids_NT.ravel(), positions_NT.ravel(), strict=True)
        )
    ]
    k = -(-len(rows) // 100)
    top = {i for _, i, _, _ in sorted(rows)[-k:]}
    median = float(np.median(norm_NT))

    def check(got, part):
        among = sum(i in top for _, i, _, _ in part)
        assert got.get("tokens", got.get("occurrences")) == len(part)
        assert got["in_top"] == among
        assert got["share_of_top"] == pytest.approx(among / k)
        if part:
            assert got["lift"] == pytest.approx(among / k / (len(part) / len(rows)))
            assert got["mean_over_median"] == pytest.approx(sum(row[0] for row in part) / len(part) / median, rel=1e-6)
        else:
            assert got["lift"] is None

    place = {"first position": [], "BOS or separator inside": [], "newline": [], "all other tokens": []}
    for row in rows:
        kind, position = row[2:]
        name = "first position" if position == 0 else "BOS or separator inside" if kind == BOS else "newline"
        place[name if name != "newline" or kind in (NEWLINE, INDENT) else "all other tokens"].append(row)
    assert found["places"].keys() == place.keys()
    for name, part in place.items():
        check(found["places"][name], part)
    assert [row["first"] for row in found["positions"]] == [p for p in (0, 1, 2, 3, 4, 8, 16) if p < length]
    for got in found["positions"]:
        check(got, [row for row in rows if got["first"] <= row[3] <= got["last"]])
    assert sum(got["in_top"] for got in found["positions"]) == k == found["top_count"]
    for got in found["top_tokens"]:
        check(got, [row for row in rows if row[2] == got["id"]])
    assert sum(found["proportions"]) == pytest.approx(1)


def test_sinks_are_named_in_words():
    """The first position of every second sequence, and every separator, are long; together they are the top 1 %."""
    norm_NT, ids_NT, positions_NT = made(100, 60)
    norm_NT[:] = 1
    ids_NT[:10, 30] = BOS
    norm_NT[::2, 0] = 90
    norm_NT[:10, 30] = 80
    assert of(norm_NT, ids_NT, positions_NT)["sinks"] == [
        "first position ('<|endoftext|>'): 45.5 times the median norm, 83 % of the top 1 %, 50 times its base rate",
        "'<|endoftext|>' inside a sequence: 80 times the median norm, 17 % of the top 1 %, 100 times its base rate",
    ]


def test_a_first_position_that_holds_no_bos():
    norm_NT, ids_NT, positions_NT = made()
    ids_NT[:, 0] = 20
    norm_NT[:, 0] *= 90
    [said] = [s for s in of(norm_NT, ids_NT, positions_NT)["sinks"] if s.startswith("first")]
    assert said.startswith("first position: ")


def test_a_long_newline_is_a_sink_and_a_plain_model_has_none():
    norm_NT, ids_NT, positions_NT = made()
    assert of(norm_NT, ids_NT, positions_NT)["sinks"] == []
    ids_NT[:, 20] = NEWLINE
    ids_NT[::5, 21] = INDENT
    norm_NT[:, 20] *= 30
    norm_NT[::5, 21] *= 30
    [said] = of(norm_NT, ids_NT, positions_NT)["sinks"]
    assert said.startswith("newline: ")


def test_one_kind_of_newline_is_named_where_newlines_are_not():
    norm_NT, ids_NT, positions_NT = made()
    ids_NT[:, 5:15] = NEWLINE
    ids_NT[:, 20] = INDENT
    norm_NT[:, 20] *= 2
    assert [s.split(":")[0] for s in of(norm_NT, ids_NT, positions_NT)["sinks"]] == ["newline", "'\\n    '"][1:]


def test_hooks_share_bins_and_a_token_is_decoded_once():
    norm_NT, ids_NT, positions_NT = made(10, 20)
    asked = []

    def counted(kind):
        asked.append(kind)
        return decode(kind)

    norms = {"a": norm_NT.ravel(), "b": 50 * norm_NT.ravel()}
    found = distribution(
        norms, ids_NT.ravel(), positions_NT.ravel(), bos_id=BOS, decode=counted, split="train", mask="none"
    )
    assert len(asked) == len(set(asked))
    assert list(found["hooks"]) == ["a", "b"]
    assert all(sum(row["proportions"]) == pytest.approx(1) for row in found["hooks"].values())
    assert found["hooks"]["b"]["mean_norm"] == pytest.approx(50 * found["hooks"]["a"]["mean_norm"], rel=1e-6)
    assert (found["tokens"], found["split"], found["mask"]) == (200, "train", "none")


def test_norms_that_are_all_zero():
    _, ids_NT, positions_NT = made(5, 10)
    zero = {"h": np.zeros(50, dtype=np.float32)}
    found = distribution(zero, ids_NT.ravel(), positions_NT.ravel(), bos_id=BOS, decode=decode, split="train")
    row = json.loads(json.dumps(found, allow_nan=False))["hooks"]["h"]
    assert row["share_of_square_in_top"] is None
    assert row["places"]["first position"]["mean_over_median"] is None
