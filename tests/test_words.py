"""What is written for the command line is read as it was."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmix.cli.arguments import split_dotted
from unmix.words import LISTS, option, read, value_of

ODD = ["null", "true", "no", "1e-3", "123", "0x1F", "2026-11-26", "2026-13-45", "[]", "{a: 1}", "--x", "a: b", "", "="]
TEXT = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))) | st.sampled_from(ODD)
SCALARS = TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=6)


def typed(text: str) -> dict[str, Any]:
    """As the command line takes it."""
    words, dotted = split_dotted(shlex.split(text))
    assert not words
    return {key: value_of(key, given) for key, given in dotted.items()}


@given(st.sampled_from(["variants.a.sae", "corpus.source", "model.name"]), VALUES)
def test_any_value_of_a_key_comes_back(key: str, value: Any):
    assert typed(option(key, value)) == {key: value}


@given(st.sampled_from(LISTS), st.lists(TEXT | st.integers()) | st.none())
def test_any_list_of_a_key_with_several_values_comes_back(key: str, value: Any):
    assert typed(option(key, value)) == {key: value}


@pytest.mark.parametrize(
    ("key", "words", "value"),
    [
        ("sae.prefixes", ["null"], None),
        ("corpus.roles", ["[]"], []),
        ("training.l1", ["[1, 2]"], [1, 2]),
        ("training.l1", ["0", "5e-1"], [0, 0.5]),
        ("training.l1", ["3"], [3]),
        ("training.lr", ["1e-3"], 0.001),
        ("training.lr", ["2.E+4"], 20000.0),
        ("model.name", ['"1e-3"'], "1e-3"),
        ("training.steps", ["010"], 10),
        ("training.steps", ["-0_10"], -10),
        ("training.steps", ["0x1F"], 31),
        ("variants.a.training", ['{"l0": [1e-05]}'], {"l0": [1e-05]}),
    ],
)
def test_words_are_read_as_people_mean_them(key: str, words: list[str], value: Any):
    found = value_of(key, words)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["[1", "a: b: c", "2026-13-45", "@"])
def test_what_has_no_value(word: str):
    with pytest.raises(ValueError, match=r"."):
        read(word)
