"""A .json file is an array of records or JSON Lines, plain or gzipped; an object is refused, damage is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from unmix.config import CorpusConfig
from unmix.corpus.content import Chat, Ids
from unmix.corpus.documents import documents
from unmix.errors import UserError

RECORDS = [{"text": "one"}, {"text": None}, {"text": "two\r\nü\0"}, {"text": "x" * 300_000}]
TEXTS = ["one", "two\r\nü\0", "x" * 300_000]


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.content for document in documents(CorpusConfig(source=str(path), field=field))]


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".JSON", ".json.gz"])
def test_an_array_of_records(tmp_path: Path, bom: str, indent: int | None, suffix: str) -> None:
    raw = (bom + json.dumps(RECORDS, indent=indent)).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    assert texts(path) == TEXTS


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".JSONL", ".jsonl.gz", ".json.gz"])
def test_lines(tmp_path: Path, suffix: str) -> None:
    raw = ("\ufeff" + "\r\n\r\n".join(json.dumps(record) for record in RECORDS)).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    assert texts(path) == TEXTS


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"text": "one"}', "a.json is no array of records; give one, or rename the file .jsonl"),
        ('{\n "text": "one"\n}', "a.json is no array of records"),
        ("3", "a.json is no array of records"),
        ("[[1, 2], [3]]", "a.json is no array of records"),
        ('["one", "two"]', "a.json is no array of records"),
        ("{ // a comment\n}", "a.json is not JSON"),
        ('[{"text": "one"}, {"text": "tw', "a.json is not JSON"),
        ("[" * 100_000, "a.json is not JSON"),
        ('{"text": "one"}\n{"text": "tw', "a.json, line 2 is not JSON"),
        ('{"text": "one"}\n[1]', "a.json, line 2 holds a list; want an object"),
        ('[{"text": "one"}, {"body": "two"}]', "a.json, record 2 has no 'text'; set corpus.field to one of: body"),
    ],
)
def test_what_is_no_corpus_is_refused_by_name(tmp_path: Path, raw: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(raw)
    with pytest.raises(UserError, match=said) as error:
        texts(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "caf\xe9"}]')
    with pytest.raises(UserError, match=r"a\.json is not UTF-8; convert it first"):
        texts(path)


def test_lines_that_are_chats_or_ids_need_no_record(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [turns, turns])))
    found = [document.content for document in documents(CorpusConfig(source=str(tmp_path / "a.jsonl")))]
    assert [chat.messages for chat in found if isinstance(chat, Chat)] == [turns, turns]
    (tmp_path / "b.jsonl").write_text("[5, 6]\n[7]\n")
    found = [document.content for document in documents(CorpusConfig(source=str(tmp_path / "b.jsonl")))]
    assert [ids.ids.tolist() for ids in found if isinstance(ids, Ids)] == [[5, 6], [7]]
