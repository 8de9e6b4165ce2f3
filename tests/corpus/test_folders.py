"""A folder gives the texts of what can be read, and says how many files of which kind it passed over."""

from __future__ import annotations

import gzip
import os
from itertools import islice
from pathlib import Path

import pytest

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.corpus.unfit import PassedOver
from unmix.errors import UserError


def read(folder: Path, field: str = "text") -> tuple[list[str], list[str]]:
    said: list[str] = []
    return [d.content for d in documents(CorpusConfig(source=str(folder), field=field), said.append)], said


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_every_kind_is_read_in_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.csv": b"text\none\n",
            "b/c.json": b'[{"text": "two"}]',
            "b/d.jsonl.gz": gzip.compress(b'{"text": "three"}\n'),
            "e.json": b'{"text": "four"}\n{"text": "five"}\n',
            "f.txt.gz": gzip.compress(b"six\r\n"),
            "g.txt": b"seven\r\n",
            "h.tsv": b"text\neight\n",
        },
    )
    numbers = ["one", "two", "three", "four", "five", "six\n", "seven\n", "eight"]
    assert read(tmp_path) == (numbers, [])


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.txt": b"text", ".hidden": b"no", "b.png": b"decodes", "c.png": b"\x89", "d.pkl": b"(lp0\n.",
            "notes.txt": b"caf\xe9", "model": b"\0\0", "dataset_info.json": b'{"text": "metadata"}', "e.txt": b"",
            "numbers.csv": b"x,y\n1,2\n", "tsconfig.json": b"{ // comment\n}", "old.jsonl.lz4": b"z",
        },
    )  # fmt: skip
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "linked").symlink_to(tmp_path.parent)
    texts, said = read(tmp_path)
    assert texts == ["text"]
    assert len(said) == 1
    assert said[0].startswith("12 files passed over: 2 .png, ")


def test_the_line_names_kinds_and_examples() -> None:
    passed = PassedOver()
    assert str(passed) == ""
    for n in range(10):
        passed.add(".png", f"{n}.png")
    passed.add(".bin", "x.bin")
    passed.add("not UTF-8", "notes.txt")
    assert str(passed) == "12 files passed over: 10 .png, 1 .bin, 1 not UTF-8 (notes.txt)"
    passed.add("not UTF-8", "more.txt")
    assert "2 not UTF-8 (notes.txt, …)" in str(passed)
    for n in range(20):
        passed.add(f".kind{n}", "")
    assert str(passed).endswith("15 of other kinds")


def test_it_is_said_too_if_the_reading_is_ended_early(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"", "b.txt": b"one", "c.txt": b"two", "d.png": b""})
    said: list[str] = []
    found = documents(CorpusConfig(source=str(tmp_path)), said.append)
    assert [document.content for document in islice(found, 1)] == ["one"]
    found.close()
    assert said == ["1 file passed over: 1 .png"]


def test_a_folder_without_any_document_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": b'[{"body": "one"}]', "b.json": b'[{"body": "two"}]', "c.png": b""})
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert "3 files passed over: 2 without 'text' (a.json, …), 1 .png" in str(error.value)
    assert str(error.value).endswith("a.json, record 1 has no 'text'; set corpus.field to one of: body")
    assert read(tmp_path, "body")[0] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("b.jsonl", b'{"text": "cu'), ("b.jsonl", b'{"body": "other"}'), ("b.json", b'[{"text": "cu'), ("b.gz", b"")],
)
def test_a_shard_that_is_cut_or_lacks_the_field_ends_the_reading(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path, {"a.jsonl": b'{"text": "fine"}', name: content, "c.jsonl": b'{"text": "fine"}'})
    with pytest.raises(UserError, match=name):
        read(tmp_path)


def test_a_shard_with_nothing_in_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": b'{"text": "fine"}', "b.jsonl": b""})
    assert read(tmp_path) == (["fine"], ["1 file passed over: 1 empty (b.jsonl)"])


def test_a_file_or_folder_without_permission_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.txt": b"one", "locked.txt": b"two", "closed/c.txt": b"three"})
    opened, access = Path.open, os.access

    def refusing(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "locked.txt":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    assert read(tmp_path)[1] == ["2 files passed over: 2 unreadable (closed, …)"]
