"""Plain text: one file is one document in a folder, and several pieces where it is the whole corpus.

Either way a file has the same characters: its line ends are `\\n`, whatever they were (`\\r\\n`, `\\r`), and a byte
order mark at its start is left out.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from unmix.corpus.compressed import opened
from unmix.corpus.unfit import Unfit

_PIECE_CHARACTERS = 10_000


def whole(path: Path) -> Iterator[str]:
    """The file as one text. Raises `Unfit` if it is binary or not UTF-8."""
    with opened(path) as file:
        yield _text(path, file.read(), 0)


def pieces(path: Path) -> Iterator[str]:
    """The file in pieces, cut at ends of lines: a book that was one document would be all trained on, or all held out.

    Raises `Unfit` if it is binary or not UTF-8.
    """
    piece: list[str] = []
    size = 0
    for line in _lines(path):
        piece.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    with opened(path) as file:
        for line in file:
            text = _text(path, line, offset)
            offset += len(line)
            if "\n" in text[:-1]:  # ends that are `\r` alone
                yield from StringIO(text)
            else:
                yield text


def _text(path: Path, data: bytes, offset: int) -> str:
    """These bytes, which begin at `offset` of the file and end at a line end or at its end, as text."""
    mark = len(codecs.BOM_UTF8) if offset == 0 and data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + mark + error.start}"
        raise Unfit(f"{path} is not UTF-8 text ({place}); convert it first", "not UTF-8") from None
    if "\0" in text:
        raise Unfit(f"{path} holds NUL bytes: it is binary, or text in UTF-16; convert it to UTF-8 first", "binary")
    return text.replace("\r\n", "\n").replace("\r", "\n")
