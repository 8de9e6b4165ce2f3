"""A table gives one column; a row that would be cut, a cell that is no text, and damage are refused by place."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.errors import UserError

ROWS = 500


def texts(path: Path, field: str = "text") -> list[str]:
    return [document.content for document in documents(CorpusConfig(source=str(path), field=field))]


def refuses(path: Path, said: str, field: str = "text") -> None:
    with pytest.raises(UserError, match=said) as error:
        texts(path, field)
    assert "\n" not in str(error.value)


def test_csv(tmp_path: Path) -> None:
    raw = '\ufeffid,text\r\n1,"a, b ""c""\r\nd"\r\n\r\n2,\r\n3,ü\0\r\n4,' + "x" * 300_000
    for name, content in {"a.csv": raw.encode(), "a.csv.gz": gzip.compress(raw.encode())}.items():
        (tmp_path / name).write_bytes(content)
        assert texts(tmp_path / name) == ['a, b "c"\r\nd', "ü\0", "x" * 300_000]
        refuses(tmp_path / name, r"a\.csv(\.gz)? has no 'body'; set corpus.field to one of: id, text", "body")


def test_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tn\na, b\t1\n"c\td"\t2\n')
    assert texts(tmp_path / "a.tsv") == ["a, b", "c\td"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            b"id,text\n1,fine\n2,one, two\n",
            r"a\.csv, line 3 has 3 columns, the header 2; quote texts that hold a comma",
        ),
        (b"id,text\n1\n", "line 2 has 1 columns, the header 2"),
        (b'id,text\n1,"cut in mid', "line 2: unexpected end of data; a quote in it is not closed"),
        (b'id,text\n1,"a"b\n', "line 2: .*a quote in it is not closed or not doubled"),
        (b"id,text\n1,caf\xe9\n", r"a\.csv is not UTF-8"),
    ],
)
def test_no_row_of_a_csv_is_cut_in_silence(tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    refuses(tmp_path / "a.csv", said)


def write_arrow(path: Path, table: pa.Table, batch: int = 100) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.RecordBatchStreamWriter(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


TABLE = pa.table({"n": range(ROWS), "text": [None, *(f"row {n}" for n in range(1, ROWS))]})


def test_arrow(tmp_path: Path) -> None:
    write_arrow(tmp_path / "stream.arrow", TABLE)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    for name in ("stream.arrow", "file.arrow"):
        assert texts(tmp_path / name) == [f"row {n}" for n in range(1, ROWS)]
        refuses(tmp_path / name, f"{name} has no 'body'; set corpus.field to one of: text", "body")
        refuses(
            tmp_path / name,
            f"{name}, row 1: 'n' holds a number, not text, token ids or a chat; set corpus.field to one of: text",
            "n",
        )


def test_the_remedy_for_a_wrong_parquet_column_is_from_the_others(tmp_path: Path) -> None:
    pq.write_table(pa.table({"input_ids": [[1, 2], [3]], "url": ["a", "b"]}), tmp_path / "a.parquet")
    refuses(tmp_path / "a.parquet", r"has no 'text'; set corpus\.field to one of: input_ids \(token ids\), url$")
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "b.parquet")
    refuses(tmp_path / "b.parquet", r"b\.parquet has no 'text'")


def test_a_shard_that_is_cut_anywhere_or_damaged_is_named(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", TABLE)
    pq.write_table(pa.table({"text": [f"row {n} {n * n}" for n in range(5000)]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"text": "row %d"}\n' % n for n in range(5000))))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n" + b"".join(b"row %d\n" % n for n in range(5000))))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"".join(b"row %d\n" % n for n in range(5000))))
    for path in sorted(tmp_path.glob("a.*")):
        shards = tmp_path / f"shards of {path.name}"
        shards.mkdir()
        raw = path.read_bytes()
        for n in range(3):
            (shards / f"{n}{path.name}").write_bytes(raw)
        broken = shards / f"1{path.name}"
        middle = bytearray(raw)
        middle[len(raw) // 3 : len(raw) // 3 + 40] = b"\xff" * 40
        damaged = [] if path.suffix == ".arrow" else [bytes(middle)]  # Arrow keeps no checksum
        for content in [raw[: len(raw) // 2], raw[:-8], b"", *damaged]:
            broken.write_bytes(content)
            refuses(shards, f"1{path.name}")


def test_chats_in_parquet_are_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other columns hold is asked for by a remedy alone."""
    chats = [[{"role": "user", "content": f"chat {n}"}] for n in range(ROWS)]
    pq.write_table(pa.table({"messages": chats, "prompt": ["x"] * ROWS}), tmp_path / "a.parquet")
    passes = []
    whole = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **more: Any) -> Iterator[Any]:
        passes.append(more)
        return whole(self, *args, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert len(texts(tmp_path / "a.parquet", "messages")) == ROWS
    assert len(passes) == 1


def test_a_row_that_cannot_be_read_says_what_the_other_columns_hold(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "body": ["a", "b"]}), tmp_path / "a.parquet")
    refuses(tmp_path / "a.parquet", r"row 1: 'n' holds a number, .*; set corpus\.field to one of: body$", "n")
