"""A token's bytes as one short piece of a line: nothing that breaks the line, turns it round or cannot be seen."""

from __future__ import annotations

import unicodedata

_GLYPHS = {"\n": "↵", "\t": "→", "\r": "␍"}


def shown(token: bytes) -> str:
    """Text, with glyphs for line breaks and tabs; what is no text, and what cannot be seen, as hex."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)
    return "".join(_GLYPHS.get(character, character if _seen(character) else _hex(character)) for character in text)


def _seen(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def _hex(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
