"""Chats as data has them: `messages` of role and content, ShareGPT's `from` and `value`."""

from __future__ import annotations

from typing import Any

from unmix.corpus.content import Chat
from unmix.errors import UserError

_TURNS = ({"role", "content"}, {"from", "value"})
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
"""ShareGPT's names (huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered) as chat templates know them."""


def is_chat(value: Any) -> bool:
    """Whether it is a list of turns, or one object with lists of roles and contents (as `datasets` once gave them)."""
    if isinstance(value, dict):
        return any(turn <= value.keys() for turn in _TURNS)
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and is_chat(item) for item in value)


def chat(value: Any, where: str) -> Chat:
    """The messages, with ShareGPT's names as the usual ones, and without entries that are null.

    Raises `UserError`, beginning with `where`, for a role that is no word and a content that is not text.
    """
    turns = value if isinstance(value, list) else _transposed(value, where)
    return Chat([_message(turn, f"{where}, message {n}") for n, turn in enumerate(turns, 1)], where)


def _message(turn: dict[str, Any], where: str) -> dict[str, Any]:
    share_gpt = "role" not in turn
    role, content = (turn["from"], turn["value"]) if share_gpt else (turn["role"], turn["content"])
    if not isinstance(role, str):
        raise UserError(f"{where} has the role {role!r}; want a word such as user or assistant")
    more = {key: v for key, v in turn.items() if v is not None and key not in ("role", "content", "from", "value")}
    return {"role": _ROLES.get(role, role) if share_gpt else role, "content": _text(content, where), **more}


def _text(content: Any, where: str) -> str | None:
    """A content as text: parts of text are joined, null stays (a message that only calls a tool has none)."""
    if content is None or isinstance(content, str):
        return None if content is None else content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    kind = "parts that are not text" if isinstance(content, list) else f"a {type(content).__name__}"
    raise UserError(f"{where} holds {kind}, and only text is read; leave that chat out")


def _transposed(value: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """{"role": [a, b], "content": [c, d]} as two messages; a single turn as one."""
    lists = {key: entries for key, entries in value.items() if isinstance(entries, list)}
    if not isinstance(value.get("role", value.get("from")), list):
        return [value]
    lengths = {len(entries) for entries in lists.values()}
    if len(lengths) != 1:
        raise UserError(
            f"{where} has {' and '.join(map(str, sorted(lengths)))} roles and contents; want as many of each"
        )
    return [{key: entries[n] for key, entries in lists.items()} for n in range(lengths.pop())]
