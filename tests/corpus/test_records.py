"""A record gives its text, token ids or chat; whatever else a field holds is called what it is, with a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from unmix.corpus.content import Chat, Ids
from unmix.corpus.records import content_of
from unmix.errors import UserError


def test_text_and_null() -> None:
    assert content_of({"text": "a"}, "text", "here") == "a"
    for nothing in (None, [], ""):
        assert content_of({"text": nothing}, "text", "here") == ""


def refusal(record: dict[str, Any], field: str) -> str:
    with pytest.raises(UserError) as error:
        content_of(record, field, "a.jsonl, line 1")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_remedy_names_the_fields_that_can_be_read() -> None:
    assert refusal({"code": "x", "n": 3, "maybe": None}, "text") == (
        "a.jsonl, line 1 has no 'text'; set corpus.field to one of: code, maybe"
    )
    assert refusal({"n": 3}, "text").endswith("has no 'text'; no field here holds text, token ids or a chat (n)")
    assert "(there is none)" in refusal({}, "text")
    said = refusal({"input_ids": [5, 6], "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}, "text")
    assert said.endswith("set corpus.field to one of: input_ids (token ids), messages (a chat), prompt")


def test_token_ids() -> None:
    found = content_of({"input_ids": [5, 6]}, "input_ids", "here")
    assert isinstance(found, Ids)
    assert found.ids.tolist() == [5, 6]
    assert found.where == "here"
    assert "too large for token ids" in refusal({"input_ids": [2**70]}, "input_ids")


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        ([{"role": "user", "content": "hi"}], [{"role": "user", "content": "hi"}]),
        (
            [{"from": "human", "value": "hi", "weight": 1}, {"from": "gpt", "value": "yes", "weight": None}],
            [{"role": "user", "content": "hi", "weight": 1}, {"role": "assistant", "content": "yes"}],
        ),
        (
            {"role": ["user", "bot"], "content": ["a", "b"]},
            [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}],
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "ab"}],
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}],
            [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}],
        ),
    ],
)
def test_chats_of_every_form(chat: object, messages: list[dict[str, Any]]) -> None:
    assert content_of({"messages": chat}, "messages", "here") == Chat(messages, "here")


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ([{"role": 3, "content": "a"}], "message 1 has the role 3; want a word such as user or assistant"),
        ([{"role": "user", "content": 3}], "message 1 holds a int, and only text is read"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 holds parts that are not text"),
        ({"role": ["user", "bot"], "content": ["a"]}, "has 1 and 2 roles and contents; want as many of each"),
    ],
)
def test_chats_that_cannot_be_read(chat: object, said: str) -> None:
    assert said in refusal({"messages": chat}, "messages")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "a number"), (2.5, "a number"), (True, "true or false"), ([1.5], "a list"), (["a"], "a list"),
        ([True], "a list"), ([[1]], "a list"), ({"a": 1}, "an object"), (b"a", "a value of type bytes"),
    ],
)  # fmt: skip
def test_other_kinds(value: object, kind: str) -> None:
    assert f"'text' holds {kind}, not text, token ids or a chat" in refusal({"text": value}, "text")
