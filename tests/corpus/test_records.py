"""A record gives its text; whatever else a field holds is called what it is, with a remedy that works."""

from __future__ import annotations

from typing import Any

import pytest

from unmix.corpus.records import text_of
from unmix.errors import UserError


def test_text_and_null() -> None:
    assert text_of({"text": "a"}, "text", "here") == "a"
    assert text_of({"text": None}, "text", "here") == ""


def refusal(record: dict[str, Any], field: str) -> str:
    with pytest.raises(UserError) as error:
        text_of(record, field, "a.jsonl, line 1")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_remedy_names_only_fields_that_hold_text() -> None:
    assert refusal({"code": "x", "n": 3, "maybe": None}, "text") == (
        "a.jsonl, line 1 has no 'text'; set corpus.field to one of: code, maybe"
    )
    assert refusal({"n": 3}, "text").endswith("has no 'text'; no field here holds text (n)")
    assert "no field here holds text (there is none)" in refusal({}, "text")


@pytest.mark.parametrize("field", ["text", "input_ids"])
def test_token_ids_are_named_and_not_offered_as_text(field: str) -> None:
    said = refusal({"attention_mask": [1, 1], "input_ids": [5, 6]}, field)
    assert "token ids are not read yet: give the text that they were made from" in said
    assert "corpus.field" not in said
    assert "'input_ids' holds a list of integers" in said


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": "hi"}],
        [{"from": "human", "value": "hi", "weight": 1}],
        {"role": ["user"], "content": ["hi"]},
    ],
)
def test_chats_are_named(chat: object) -> None:
    said = refusal({"messages": chat, "prompt": "hi"}, "text")
    assert "'messages' holds a chat; chats are not read yet: write each as one text" in said
    assert said.endswith("set corpus.field to one of: prompt")
    assert "'messages' holds a chat, not text; chats are not read yet" in refusal({"messages": chat}, "messages")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "a number"), (2.5, "a number"), (True, "true or false"), ([], "a list"), (["a"], "a list"),
        ({"a": 1}, "an object"), (b"a", "a value of type bytes"),
    ],
)  # fmt: skip
def test_other_kinds(value: object, kind: str) -> None:
    assert f"'text' holds {kind}, not text" in refusal({"text": value}, "text")
