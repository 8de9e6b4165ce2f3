"""The bytes of a token, and how they look in a line.

A token is bytes, not text: characters may be split between tokens. By the tokenizer's own decoder:

    byte level    each character of the entry stands for a byte, by the table of GPT-2
    byte fallback `<0xNN>` is the byte NN, `▁` a space
    else          what the tokenizer decodes the token to, alone

Which of them holds is tried on a text; the bytes have to come to that text again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_TRIED = "def f(x):\n\treturn x  # naïve 中文 🙂 end\n  two  spaces, «quoted»"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def vocabulary(tokenizer: Any, ids: Iterable[int]) -> dict[str, Any]:
    """The page's `vocabulary`: bytes of each id as latin-1, special tokens as text."""
    special = {int(i) for i in tokenizer.all_special_ids}
    of = bytes_of(tokenizer)
    listed = sorted({int(i) for i in ids})
    return {
        "special": {str(i): str(tokenizer.convert_ids_to_tokens(i)) for i in listed if i in special},
        "bytes": {str(i): of(i).decode("latin-1") for i in listed if i not in special},
    }


def bytes_of(tokenizer: Any) -> Callable[[int], bytes]:
    """id -> bytes. An id without an entry (a model may have more logits than its tokenizer has tokens) has none."""
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    ids = tokenizer.encode(_TRIED, add_special_tokens=False)
    for read in (_byte_level, _byte_fallback):

        def of(i: int, read: Callable[[str], bytes | None] = read) -> bytes:
            # Gemma's runs of ▁ are added tokens: spaces like any other entry's
            if i in added and (added[i].special or read is _byte_level):
                return str(added[i]).encode()
            entry = tokenizer.convert_ids_to_tokens(i)
            found = None if entry is None else read(entry)
            return b"" if entry is None else entry.encode() if found is None else found

        if b"".join(map(of, ids)) in (_TRIED.encode(), b" " + _TRIED.encode()):
            return of
    return lambda i: str(tokenizer.decode([i], clean_up_tokenization_spaces=False)).encode()


def _byte_level(entry: str) -> bytes | None:
    found = [_OF_CHARACTER.get(character) for character in entry]
    return None if None in found else bytes(byte for byte in found if byte is not None)


def _byte_fallback(entry: str) -> bytes | None:
    if match := _BYTE.fullmatch(entry):
        return bytes([int(match[1], 16)])
    return entry.replace("▁", " ").encode()


def _table() -> dict[str, int]:
    """character -> byte: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in their order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + n): byte for n, byte in enumerate(others)}


_OF_CHARACTER = _table()
