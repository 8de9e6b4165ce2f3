"""A folder of save_to_disk is read shard by shard; of several splits one is read, and which is said."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.errors import UserError


def save(folder: Path, shards: list[list[str]], split: str | None = None) -> Path:
    """The files that `Dataset.save_to_disk` of datasets 5.2 leaves."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(shards):05}.arrow" for n in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        table = pa.table({"text": texts, "n": range(len(texts))})
        with pa.OSFile(str(folder / name), "wb") as file, pa.RecordBatchStreamWriter(file, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": split}  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}, "text": "metadata"}))
    return folder


def save_splits(folder: Path, *names: str) -> Path:
    for name in names:
        save(folder / name, [[f"{name} text"]], name)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": names}))
    return folder


def read(source: object, field: str = "text") -> tuple[list[str], list[str]]:
    said: list[str] = []
    return [d.content for d in documents(CorpusConfig(source=str(source), field=field), said.append)], said


def refuses(source: object, said: str, field: str = "text") -> None:
    with pytest.raises(UserError, match=said) as error:
        read(source, field)
    assert "\n" not in str(error.value)


def test_one_dataset(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", [["one", "two"], ["three"]])
    (folder / "cache-1234.arrow").write_bytes(b"of another transformation")
    assert read(folder) == (["one", "two", "three"], [])
    assert read(f"datasets:{folder}") == (["one", "two", "three"], [])
    refuses(folder, r"data-00000-of-00002\.arrow has no 'body'; set corpus.field to one of: text", "body")
    refuses(f"datasets:{folder}::test", "saved is one dataset without splits, so 'test' is not there")
    refuses(f"datasets:{folder}:en", f"has no configurations; write datasets:{folder}::SPLIT")


def test_several_splits(tmp_path: Path) -> None:
    folder = save_splits(tmp_path / "saved", "train", "test")
    remedy = f"write datasets:{folder}::SPLIT for one of: train, test"
    assert read(folder) == (["train text"], [f"{folder} has several splits, and train is read; for another {remedy}"])
    assert read(f"datasets:{folder}::test") == (["test text"], [])
    refuses(f"datasets:{folder}::dev", f"has no split 'dev'; {remedy}")
    refuses(save_splits(tmp_path / "other", "en", "de"), "has no split 'train'; .* for one of: en, de")


def test_a_shard_that_is_cut_or_gone_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", [["one"], ["two"], ["three"]])
    shard = folder / "data-00001-of-00003.arrow"
    shard.write_bytes(shard.read_bytes()[:-8])
    refuses(folder, r"data-00001-of-00003\.arrow is not readable Arrow: its end is missing")
    shard.unlink()
    refuses(folder, r"data-00001-of-00003\.arrow is not there, although .*state\.json names it")


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_description_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = save(tmp_path / "saved", [["one"]])
    (folder / name).write_text(content)
    refuses(folder, f"{name} cannot be read")


def test_one_inside_another_folder_is_refused_rather_than_read_with_all_its_splits(tmp_path: Path) -> None:
    save_splits(tmp_path / "texts" / "saved", "train", "test")
    (tmp_path / "texts" / "a.txt").write_text("text")
    refuses(tmp_path / "texts", "saved was written by save_to_disk .* give it alone as corpus.source")
