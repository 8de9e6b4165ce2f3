"""The text of a record, wherever the record was read; what else a field may hold is called by its name."""

from __future__ import annotations

from typing import Any

from unmix.errors import UserError

_TURNS = ({"role", "content"}, {"from", "value"})
_INTEGERS, _CHAT = "a list of integers", "a chat"
_NOT_READ_YET = (
    (_INTEGERS, "input_ids", "token ids are not read yet: give the text that they were made from"),
    (
        _CHAT,
        "messages",
        "chats are not read yet: write each as one text, for instance with the tokenizer's "
        "apply_chat_template(…, tokenize=False), and name its field in corpus.field",
    ),
)
"""What a field holds, the name that it has most often, and what to do."""


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """`record[field]`; empty for null.

    Raises `UserError`, beginning with `where`, if there is no such field or it holds no text, and says what else there
    is: other fields that hold text, token ids, chats.
    """
    if field not in record:
        raise UserError(f"{where} has no {field!r}; {_remedy(record, field)}")
    value = record[field]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {field!r} holds {_kind(value)}, not text; {_remedy(record, field)}")
    return value


def _remedy(record: dict[str, Any], field: str) -> str:
    """What to do, from what the other fields hold."""
    said = []
    kinds = {name: _kind(value) for name, value in record.items()}
    for kind, usual, remedy in _NOT_READ_YET:
        names = [name for name in (field, usual, *kinds) if kinds.get(name) == kind]
        if names:
            said += [] if names[0] == field else [f"{names[0]!r} holds {kind}"]
            said.append(remedy)
    texts = [name for name, kind in kinds.items() if name != field and kind in ("text", "null")]
    if texts:
        said.append(f"set corpus.field to one of: {', '.join(texts)}")
    elif not said:
        said.append(f"no field here holds text ({', '.join(record) or 'there is none'})")
    return "; ".join(said)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return _CHAT if any(turn <= value.keys() for turn in _TURNS) else "an object"
    if isinstance(value, list):
        if value and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return _INTEGERS
        if value and all(isinstance(item, dict) and _kind(item) == _CHAT for item in value):
            return _CHAT
        return "a list"
    return f"a value of type {type(value).__name__}"
