"""Plain text: one file is one document in a folder, and several pieces where it is the whole corpus."""

from __future__ import annotations

from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from unmix.corpus.compressed import opened
from unmix.corpus.unfit import Unfit

_PIECE_CHARACTERS = 10_000


def whole(path: Path) -> Iterator[str]:
    """The file as one text, line ends as `\\n`. Raises `Unfit` if it is binary or not UTF-8."""
    try:
        with TextIOWrapper(opened(path), encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise _not_utf8(path, "") from None
    if "\0" in text:
        raise _binary(path)
    yield text


def pieces(path: Path) -> Iterator[str]:
    """The file in pieces, cut at ends of lines: a book that was one document would be all trained on, or all held out.

    Raises `Unfit` if it is binary or not UTF-8.
    """
    piece: list[str] = []
    size = offset = 0
    with opened(path) as lines:
        for line in lines:
            try:
                piece.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise _not_utf8(path, f" (byte {offset + error.start})") from None
            if b"\0" in line:
                raise _binary(path)
            offset += len(line)
            size += len(piece[-1])
            if size >= _PIECE_CHARACTERS:
                yield "".join(piece)
                piece, size = [], 0
    if piece:
        yield "".join(piece)


def _not_utf8(path: Path, place: str) -> Unfit:
    return Unfit(f"{path} is not UTF-8 text{place}; convert it first", "not UTF-8")


def _binary(path: Path) -> Unfit:
    return Unfit(f"{path} holds NUL bytes: it is binary, or text in UTF-16; convert it to UTF-8 first", "binary")
