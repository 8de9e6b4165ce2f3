"""Every kind of source gives its documents in a fixed order, or one line that says what is wrong."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.errors import UserError


def texts(source: object, field: str = "text") -> list[str]:
    found = list(documents(CorpusConfig(source=str(source), field=field)))
    assert all(document.key == document.content for document in found)
    return [document.content for document in found]


def refuses(source: object, said: str, field: str = "text") -> None:
    with pytest.raises(UserError, match=said) as error:
        texts(source, field)
    assert "\n" not in str(error.value)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("os.py", "json/decoder.py", "site-packages/other.py", "_sysconfigdata_x.py", "config-3/x.py",
                 "sub/_sysconfigdata__linux.py", "notes.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "empty.py").write_text(" \n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    return tmp_path


@pytest.mark.usefixtures("library")
def test_the_standard_library_without_other_peoples_code() -> None:
    assert [tuple(d) for d in documents(CorpusConfig())] == [
        ("json/decoder.py", "# json/decoder.py"),
        ("os.py", "# os.py"),
    ]


def test_a_folder_of_records_gives_their_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    pq.write_table(pa.table({"text": ["three"]}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("four")
    assert texts(tmp_path) == ["one", "two", "three", "four"]


def test_the_real_standard_library() -> None:
    keys = [document.key for document in documents(CorpusConfig())]
    assert keys == sorted(keys, key=lambda key: Path(key).parts)
    assert "json/decoder.py" in keys
    assert not any("site-packages" in key for key in keys)


def test_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\n\ntwo é", encoding="utf-8")
    assert texts(file) == ["one\n\ntwo é"]
    file.write_bytes(b"caf\xe9")
    refuses(file, r"a.txt is not UTF-8 text \(byte 3\); convert it first")
    file.write_text("  \n")
    refuses(file, "no document in corpus.source = .*a.txt")


def test_a_folder(tmp_path: Path) -> None:
    refuses(tmp_path, "no document in corpus.source")
    for name, content in {
        "b.md": b"b", "a/z.txt": b"z", "a/.hidden": b"no", ".git/config": b"no", "image": b"\x89PNG\xff",
        "zero.bin": b"a\0b", "empty.txt": b"", "c": "ü".encode(),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert texts(tmp_path) == ["z", "b", "ü"]


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "one", "code": "x"}), "", json.dumps({"text": None, "code": "y"}),
             r'{"text": "half \ud800 pair", "code": ""}']  # fmt: skip
    file.write_text("\n".join(lines))
    assert texts(file) == ["one", "half ? pair"]
    assert texts(file, "code") == ["x", "y"]
    refuses(file, "line 1 has no 'body'; set corpus.field to one of: text, code", "body")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", r"a.jsonl, line 2 is not JSON \(.*\); mend"),
        (b'{"text": "\xe9"}', "line 2 is not UTF-8"),
        (b"[1.5]", "line 2 holds a list; want an object"),
        (b'{"text": 3}', "line 2: 'text' holds a number, not text"),
    ],
)
def test_broken_jsonl(tmp_path: Path, line: bytes, said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    refuses(file, said)


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmix.corpus.tables._PARQUET_ROWS", 2)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "b", "c", ""], "n": [1, 2, 3, 4, 5]}), file)
    assert texts(file) == ["a", "b", "c"]
    refuses(file, "a.parquet has no 'body'; set corpus.field to one of: text$", "body")
    refuses(file, "row 1: 'n' holds a number, not text", "n")
    file.write_bytes(b"not parquet at all")
    refuses(file, "a.parquet is not readable Parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuses(file, r"wants pyarrow: pip install pyarrow")


def test_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load_dataset(*args: object, **kwargs: object) -> list[dict[str, str]]:
        calls.append((args, kwargs))
        if args[0] == "gone":
            raise ValueError("no such dataset\nsecond line")
        return [{"text": "one"}, {"text": "two"}]

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert texts("datasets:owner/name") == ["one", "two"]
    assert texts("datasets:owner/name:en:test") == ["one", "two"]
    assert calls == [
        (("owner/name", None), {"split": "train", "streaming": True}),
        (("owner/name", "en"), {"split": "test", "streaming": True}),
    ]
    refuses("datasets:owner/name", "record 1 has no 'body'; set corpus.field to one of: text", "body")
    refuses("datasets:gone", "cannot read corpus.source = datasets:gone: no such dataset$")
    refuses("datasets:", "names no dataset")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refuses("datasets:owner/name", r"needs the datasets library: pip install datasets")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    refuses(tmp_path / "none.jsonl", "none.jsonl: no such file or folder; give a path, stdlib, or datasets:")


def test_a_long_text_file_is_cut_at_ends_of_lines_so_that_both_splits_get_some(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    text = "".join(f"line {n} of a long book, which is one file\n" for n in range(5000))
    path.write_text(text)
    pieces = [document.content for document in documents(CorpusConfig(source=str(path)))]
    assert "".join(pieces) == text
    assert len(pieces) > 10
    assert all(piece.endswith("\n") for piece in pieces)


SPARSE = ["", "one", "  \n\t", None, "x", "a whole sentence"]


def _write_sparse(folder: Path, kind: str) -> str:
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("\n\n".join(json.dumps({"text": text}) for text in SPARSE))
    elif kind == "json":
        (folder / "a.json").write_text(json.dumps([{"text": text} for text in SPARSE]))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": SPARSE}), folder / "a.parquet")
    elif kind == "csv":
        (folder / "a.csv").write_text("n,text\n" + "".join(f'{n},"{text or ""}"\n' for n, text in enumerate(SPARSE)))
    else:
        for n, text in enumerate(SPARSE):
            (folder / f"{n}.txt").write_text(text or " ")
        return str(folder)
    return str(folder / f"a.{kind}")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "txt"])
def test_empty_records_are_counted_and_one_word_documents_stay(tmp_path: Path, kind: str) -> None:
    source, said = _write_sparse(tmp_path, kind), list[str]()
    if kind == "txt":
        (tmp_path / "0.txt").write_text(" ")  # a file of no bytes is passed over, and counted there
    found = [document.content for document in documents(CorpusConfig(source=source), said.append)]
    assert found == ["one", "x", "a whole sentence"]
    assert said == ["3 of 6 records are empty and were left out"]


def test_empty_records_of_a_dataset_by_name_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    library, said = ModuleType("datasets"), list[str]()
    library.load_dataset = lambda *_, **__: [{"text": text} for text in SPARSE]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert len(list(documents(CorpusConfig(source="datasets:owner/name"), said.append))) == 3
    assert said == ["3 of 6 records are empty and were left out"]


def test_one_empty_record_is_said_in_the_singular_and_those_not_read_are_not_counted(tmp_path: Path) -> None:
    file, said = tmp_path / "a.jsonl", list[str]()
    file.write_text("\n".join(json.dumps({"text": text}) for text in ["one", "", *["more"] * 1300, ""]))
    reading = documents(CorpusConfig(source=str(file)), said.append)
    for _ in range(1201):
        next(reading)
    reading.close()
    assert said == ["1 of 1,202 records is empty and was left out"]


def test_a_corpus_of_nothing_but_empty_records_is_refused_with_their_number(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": ""}\n{"text": null}\n')
    refuses(file, "no document in corpus.source = .*a.jsonl; all of its 2 records are empty")


def test_a_text_file_that_ends_with_a_whole_piece_has_no_empty_record(tmp_path: Path) -> None:
    file, said = tmp_path / "book.txt", list[str]()
    file.write_text(("x" * 9_999 + "\n") * 3)
    assert len(list(documents(CorpusConfig(source=str(file)), said.append))) == 3
    assert said == []


def test_modules_without_text_are_no_records_of_the_standard_library(library: Path) -> None:
    said: list[str] = []
    list(documents(CorpusConfig(), said.append))
    assert said == []
