"""A text file has the same characters alone, in pieces, as within a folder, whole."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmix.config import CorpusConfig
from unmix.corpus import text_files
from unmix.corpus.documents import documents
from unmix.corpus.text_files import pieces, whole
from unmix.corpus.unfit import Unfit

MARK = b"\xef\xbb\xbf"
FILES = {
    "as it is": (b"one\ntwo \xc3\xa9\n", "one\ntwo é\n"),
    "of Windows": (MARK + b"one\r\ntwo\r\n", "one\ntwo\n"),
    "of an old Mac": (b"one\rtwo\r\rthree", "one\ntwo\n\nthree"),
    "of everything": (MARK + b"one\r\n\rtwo\n\r\nthree\r", "one\n\ntwo\n\nthree\n"),
    "a mark further on": (b"one\n" + MARK + b"two", "one\n\ufefftwo"),
    "two marks": (MARK + MARK + b"one", "\ufeffone"),
    "a line": (b"one", "one"),
}


def texts(source: Path) -> list[str]:
    return [document.content for document in documents(CorpusConfig(source=str(source)))]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_has_the_same_characters_alone_and_in_its_folder(tmp_path: Path, kind: str, packed: bool) -> None:
    data, wanted = FILES[kind]
    (tmp_path / "texts").mkdir()
    file = tmp_path / "texts" / ("a.txt.gz" if packed else "a.txt")
    file.write_bytes(gzip.compress(data) if packed else data)
    assert texts(file) == texts(file.parent) == [wanted]


@given(st.lists(st.sampled_from(["a", "é", "\ufeff", "\r", "\n", "\r\n", "\u2028", "\x0c", "\x85"])))
def test_pieces_are_the_whole_cut_at_ends_of_lines(parts: list[str]) -> None:
    class File:
        suffix = ".txt"

        def open(self, mode: str) -> object:
            return BytesIO("".join(parts).encode())

    file, size = File(), text_files._PIECE_CHARACTERS
    text_files._PIECE_CHARACTERS = 3
    try:
        found, [text] = list(pieces(file)), list(whole(file))  # type: ignore[arg-type]
    finally:
        text_files._PIECE_CHARACTERS = size
    assert "".join(found) == text == "".join(parts).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert all(piece.endswith("\n") and len(piece) >= 3 for piece in found[:-1])
    assert all("\n" not in piece[2:-1] for piece in found)


@pytest.mark.parametrize("read", [pieces, whole])
def test_what_is_no_text_is_refused_and_its_place_named(tmp_path: Path, read: object) -> None:
    for data, place in (
        (b"caf\xe9", 3),
        (MARK + b"caf\xe9", 6),
        (b"one\ncaf\xe9\n", 7),
        (MARK + b"one\r\ncaf\xe9", 11),
    ):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(Unfit, match=rf"a\.txt is not UTF-8 text \(byte {place}\); convert it first"):
            list(read(tmp_path / "a.txt"))  # type: ignore[operator]
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\0")
    with pytest.raises(Unfit, match="holds NUL bytes"):
        list(read(tmp_path / "a.txt"))  # type: ignore[operator]
