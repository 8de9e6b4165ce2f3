"""What the field of a record holds, wherever the record was read; what cannot be read is called by its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from unmix.corpus.chats import chat, is_chat
from unmix.corpus.content import Content, Ids
from unmix.errors import UserError

_TEXT, _NULL, _INTEGERS, _CHAT = "text", "null", "a list of integers", "a chat"
_READ = {_TEXT: "", _NULL: "", _INTEGERS: " (token ids)", _CHAT: " (a chat)"}


def content_of(record: dict[str, Any], field: str, where: str) -> Content:
    """`record[field]`: a text, token ids, or a chat; an empty text for null and an empty list.

    Raises `UserError`, beginning with `where`, if there is no such field or it holds something else, and says what the
    other fields hold.
    """
    if field not in record:
        raise UserError(f"{where} has no {field!r}; {_remedy(record, field)}")
    value = record[field]
    kind = _kind(value)
    if kind == _TEXT:
        return str(value)
    if kind == _NULL or value == []:
        return ""
    if kind == _INTEGERS:
        try:
            return Ids(np.array(value, dtype=np.int64), where)
        except OverflowError:
            raise UserError(f"{where}: {field!r} holds numbers too large for token ids") from None
    if kind == _CHAT:
        return chat(value, where)
    raise UserError(f"{where}: {field!r} holds {kind}, not text, token ids or a chat; {_remedy(record, field)}")


def is_bare(value: Any) -> bool:
    """Whether it is a chat or token ids without a record around them."""
    return isinstance(value, list) and _kind(value) in (_CHAT, _INTEGERS)


def _remedy(record: dict[str, Any], field: str) -> str:
    """What to do, from what the other fields hold."""
    kinds = {name: _kind(value) for name, value in record.items() if name != field}
    found = [f"{name}{_READ[kind]}" for name, kind in kinds.items() if kind in _READ]
    if found:
        return f"set corpus.field to one of: {', '.join(found)}"
    return f"no field here holds text, token ids or a chat ({', '.join(record) or 'there is none'})"


def _kind(value: Any) -> str:
    if value is None:
        return _NULL
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if is_chat(value):
        return _CHAT
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        integers = value and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        return _INTEGERS if integers else "a list"
    return f"a value of type {type(value).__name__}"
