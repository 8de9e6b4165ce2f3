"""What a file is goes by its name: what is neither records nor text is refused, and no pickle is opened."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.corpus.files import NEITHER, RECORDS
from unmix.errors import UserError


def texts(path: Path) -> list[str]:
    return [document.content for document in documents(CorpusConfig(source=str(path)))]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "a.rs", "a.html", "a.v2", "README", "a.TXT"])
def test_text_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("some text\n")
    assert texts(tmp_path / name) == ["some text\n"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"some text\n"))
    assert texts(tmp_path / f"{name}.gz") == ["some text\n"]


def test_a_long_gzipped_text_is_cut_like_a_plain_one(tmp_path: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(5000))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert texts(tmp_path / "b.txt.gz") == texts(tmp_path / "a.txt")
    assert len(texts(tmp_path / "a.txt")) > 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.jsonl.lz4", "is compressed in a way that is not unpacked; unpack it first"),
        ("a.zip", "is an archive; unpack it"),
        ("a.tar.gz", "is an archive; unpack it"),
        ("a.pkl", "may hold a pickle, which is never read"),
        ("a.PT", "may hold a pickle"),
        ("a.png", "is an image"),
        ("a.ipynb", "convert it to text"),
        ("a.parquet.gz", "unpack it first"),
    ],
)
def test_what_would_decode_as_text_and_is_none_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("this decodes as text\n")
    with pytest.raises(UserError, match=f"{name} .*{said}"):
        texts(tmp_path / name)


def test_no_suffix_is_both() -> None:
    assert not RECORDS.keys() & NEITHER.keys()


def test_binary_that_decodes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a tar of texts\0\0\0")
    with pytest.raises(UserError, match="holds NUL bytes: it is binary, or text in UTF-16"):
        texts(tmp_path / "a")


def test_a_source_that_is_neither_file_nor_folder() -> None:
    with pytest.raises(UserError, match=r"corpus\.source = /dev/null is neither a file nor a folder"):
        texts(Path("/dev/null"))
