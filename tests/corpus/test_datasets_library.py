"""With the datasets library itself, offline: what it saved, and folders that it understands, streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer

from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.corpus.tokens import load_tokens
from unmix.errors import UserError

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("default")  # the library's own

ROWS = [
    {"text": f"text {n}", "input_ids": [5, 6, 7 + n], "messages": [{"role": "user", "content": f"hi {n}"}]}
    for n in range(50)
]
README = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train.parquet
  - split: test
    path: en/test.parquet
- config_name: de
  data_files:
  - split: train
    path: de/train.parquet
---
"""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def read(source: str, field: str = "text") -> list[Any]:
    return [document.content for document in documents(CorpusConfig(source=source, field=field))]


def test_what_it_saved(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select(range(3))}).save_to_disk(tmp_path / "two")
    texts = [row["text"] for row in ROWS]
    assert read(str(tmp_path / "one")) == read(str(tmp_path / "two")) == texts
    assert read(f"datasets:{tmp_path / 'two'}::test") == texts[:3]
    assert [ids.ids.tolist() for ids in read(str(tmp_path / "one"), "input_ids")] == [row["input_ids"] for row in ROWS]
    assert [chat.messages for chat in read(str(tmp_path / "one"), "messages")] == [row["messages"] for row in ROWS]


def test_a_folder_that_it_understands(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    for name, rows in {"en/train": ROWS, "en/test": ROWS[:3], "de/train": ROWS[3:6]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(README)
    assert read(f"datasets:{folder}:en:test") == ["text 0", "text 1", "text 2"]
    assert read(f"datasets:{folder}:de") == ["text 3", "text 4", "text 5"]
    with pytest.raises(UserError, match=r"has several configurations; write datasets:.*:CONFIG for one of: 'en', 'de'"):
        read(f"datasets:{folder}")
    with pytest.raises(UserError, match=r"Bad split: dev\. Available splits: \['train', 'test'\]"):
        read(f"datasets:{folder}:en:dev")
    config = CorpusConfig(source=f"datasets:{folder}:en", field="input_ids")
    got = load_tokens(config, tiny_tokenizer(), 8, "train")
    assert got.given
    assert got.documents > 40
