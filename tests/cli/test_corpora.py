"""Every kind of corpus from the command line: two steps on the embedded model, and what is said before them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from unmix.cli import main
from unmix.config import ModelConfig
from unmix.lm.model import LanguageModel, load_language_model

T = 32
FAST = (
    "--steps 2 --features 64 --l0 4 --model.matmul fp32 --training.selection fp32 --training.dense fp32 "
    f"--training.border 0.1 --training.batch_tokens 64 --activations.sequence_length {T} "
    "--activations.chunk_sequences 4 --train-only"
).split()
TEXTS = [f"def function_{n}(x):\n    return x + {n}\n\n\nclass Name{n}:\n    pass\n" * 2 for n in range(80)]
CHATS = [
    [
        {"role": "user", "content": f"Write function {n}."},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "Thanks."},
    ]
    for n, text in enumerate(TEXTS)
]
TEMPLATE = "{% for m in messages %}# {{ m.role }}\n{{ m.content }}\n{% endfor %}"


@cache
def embedded() -> LanguageModel:
    return load_language_model(ModelConfig())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with (folder / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "body"], *enumerate(TEXTS)])
    ids = [embedded().tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    pq.write_table(pa.table({"input_ids": ids}), folder / "ids.parquet")
    stream = np.array([i for document in ids for i in [*document, 0]], np.uint16)
    rows = stream[: len(stream) // (T - 1) * (T - 1)].reshape(-1, T - 1)
    np.save(folder / "rows.npy", np.insert(rows, 0, 0, axis=1))
    np.save(folder / "foreign.npy", np.random.default_rng(0).permutation(4096)[rows])
    stream.tofile(folder / "stream.bin")
    (folder / "chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in CHATS))
    (folder / "chat.jinja").write_text(TEMPLATE)
    return folder


Sweep = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def sweep(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Run `unmix sweep` in the folder of the data: (status, what it said, its run.yaml)."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(data)
    monkeypatch.setattr("unmix.training.inputs.load_language_model", lambda config: embedded())

    def run(*words: str, name: str = "r", fast: bool = True) -> tuple[int, str, dict[str, Any]]:
        status = main(["sweep", *words, *(FAST if fast else []), "--name", name, "--runs", str(tmp_path / "runs")])
        said = "".join(capsys.readouterr())
        path = tmp_path / "runs" / name / "run.yaml"
        return status, said, yaml.safe_load(path.read_text()) if path.exists() else {}

    return run


def test_compressed_records_are_those_of_the_plain_file(sweep: Sweep) -> None:
    status, said, packed = sweep("--corpus", "a.jsonl.gz")
    assert status == 0
    assert "documents, " in said
    assert "the first row: '<|endoftext|>' 'def' " in said
    assert sweep("--corpus", "a.jsonl", name="plain")[2]["corpus"]["fingerprint"] == packed["corpus"]["fingerprint"]


def test_a_column_of_a_table(sweep: Sweep) -> None:
    status, said, _ = sweep("--corpus", "a.csv")
    assert status == 2
    assert "a.csv has no 'text'; set corpus.field to one of: id, body" in said
    status, said, manifest = sweep("--corpus", "a.csv", "--corpus.field", "body")
    assert status == 0
    assert manifest["recipe"]["corpus"]["field"] == "body"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["ids.parquet", "--corpus.field", "input_ids"],
            ["token ids are read as documents; '<|endoftext|>' is put between"],
        ),
        (
            ["rows.npy"],
            [f"rows of {T} ids are read as pieces of one stream", "the '<|endoftext|>' before each of them is not"],
        ),
        (["stream.bin", "--corpus.ids_dtype", "uint16"], ["token ids are read as documents"]),
    ],
)
def test_token_ids(sweep: Sweep, words: list[str], lines: list[str]) -> None:
    status, said, manifest = sweep("--corpus", *words)
    assert status == 0
    assert manifest["corpus"]["token_ids"] is True
    assert [line for line in lines if line not in said] == []
    first = said.partition("the first row: ")[2].partition("\n")[0]
    assert first.startswith("'<|endoftext|>' ")
    assert first.count("endoftext") == 1
    assert "another tokenizer's" not in said


def test_ids_of_another_tokenizer_are_warned_of(sweep: Sweep) -> None:
    status, said, _ = sweep("--corpus", "foreign.npy")
    assert status == 0
    assert "warning: these token ids are probably another tokenizer's: the model pays" in said.replace("\n", " ")


def test_chats_with_roles(sweep: Sweep, data: Path, tmp_path: Path) -> None:
    chats = ["--corpus", "chats.jsonl", "--corpus.field", "messages"]
    status, said, _ = sweep(*chats)
    assert status == 2
    assert "has no chat template; give one in a file (--corpus.template FILE.jinja)" in said
    status, said, manifest = sweep(*chats, "--corpus.template", "chat.jinja", "--corpus.roles", "assistant")
    norms = json.loads((tmp_path / "runs" / "r" / "norms.json").read_text())
    assert norms["mask"].startswith("none; as in training, only these tokens are counted: messages of assistant")
    assert status == 0
    corpus = manifest["corpus"]
    assert 0.5 < corpus["activations"] / corpus["train_tokens"] < 0.9
    assert f"({corpus['activations']:,} of them, " in said
    assert "('<|endoftext|>') ('#') (' user')" in said


def test_weights_and_a_run_that_was_stopped(sweep: Sweep, tmp_path: Path) -> None:
    """Killed after the first step and with its cached tokens lost, it ends with the bits of one that was not."""
    several = ["--corpus", "a.jsonl=0.7", "--corpus", "a.csv=0.3", "--corpus.max_tokens", "3200"]
    status, said, _ = sweep(*several)
    assert status == 2
    assert "a.csv has no 'text'" in said
    recipe = tmp_path / "r.yaml"
    sources = [
        {"source": "a.jsonl", "weight": 0.7},
        {"source": "a.csv", "field": "body", "weight": 0.3},
    ]
    recipe.write_text(yaml.safe_dump({"corpus": sources, "training": {"checkpoint_every": 1, "keep_last": 2}}))
    status, said, manifest = sweep(str(recipe), "--corpus.max_tokens", "3200")
    assert status == 0
    shares = [source["tokens"] for source in manifest["corpus"]["sources"]]
    assert shares[0] / sum(shares) == pytest.approx(0.7, abs=0.05)
    assert f"a.jsonl: {manifest['corpus']['sources'][0]['documents']} documents, {shares[0]:,} tokens, " in said
    [member] = (tmp_path / "runs" / "r" / "members").iterdir()
    last = member / "step-000000002"
    before = {path.name: path.read_bytes() for path in last.iterdir()}
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    for path in (tmp_path / "cache" / "tokens").iterdir():
        path.unlink()
    status, said, _ = sweep(str(recipe), "--corpus.max_tokens", "3200")
    assert status == 0
    assert "resuming at step 1" in said
    assert (last / "sae_weights.safetensors").read_bytes() == before["sae_weights.safetensors"]


def test_a_run_reads_no_more_of_a_long_corpus_than_its_steps_need(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is kept: resumed with more steps it reads the same tokens; a run of before was not bounded, nor is it
    when it is resumed."""
    corpus = ["--corpus", "a.jsonl", "--training.decay_fraction", "0"]
    whole = sweep(*corpus, name="before")[2]
    for name, value in {"LONG": 1000, "MANY": 1, "LEAST": 20 * T}.items():
        monkeypatch.setattr(f"unmix.corpus.plan.{name}", value)
    status, said, manifest = sweep(*corpus)
    assert status == 0
    assert f"is read no further than to {20 * T} tokens of a split, as this run reads 128 activations" in said
    assert manifest["recipe"]["corpus"]["max_tokens"] == manifest["corpus"]["train_tokens"] == 20 * T
    assert manifest["corpus"]["train_documents"] < whole["corpus"]["train_documents"]
    longer = FAST[FAST.index("--features") :]
    status, said, resumed = sweep(*corpus, "--steps", "30", *longer, fast=False)
    assert status == 0
    assert "resuming at step 2" in said
    assert "repeating from step" in said
    assert resumed["corpus"] == manifest["corpus"]
    status, _, before = sweep(*corpus, "--steps", "3", *longer, name="before", fast=False)
    assert status == 0
    assert before["corpus"] == whole["corpus"]
    assert before["recipe"]["corpus"]["max_tokens"] is None


def test_a_store_that_holds_the_beginning_of_a_long_corpus_is_trained_on(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"LONG": 1000, "MANY": 1, "LEAST": 20 * T}.items():
        monkeypatch.setattr(f"unmix.corpus.plan.{name}", value)
    # as if a shard were no longer than what is asked for: a whole one needs more than this corpus has
    monkeypatch.setattr("unmix.activations.store.rows_written", lambda tokens, shard=256: -(-tokens // shard) * shard)
    store = tmp_path / "store"
    words = ["--corpus", "a.jsonl", *FAST[:2], *FAST[6:8], *FAST[14:18]]
    assert main(["harvest", *words, "--out", str(store), "--tokens", "256"]) == 0
    assert json.loads((store / "manifest.json").read_text())["corpus"]["train_tokens"] == 20 * T
    assert sweep("--corpus", "a.jsonl", "--activations.store", str(store))[0] == 0


def test_a_dataset_that_the_hub_has_is_pinned_to_its_commit(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys
    from types import ModuleType

    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, **more: Any) -> Any:
        asked.append((name, config, more["split"], more.get("revision")))
        yield from ({"text": text} for text in TEXTS)

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    commits = ["abc", "def", "def"]
    monkeypatch.setattr("unmix.corpus.hub.ask_hub", lambda name, asked: asked or commits.pop(0))
    once = ["--corpus", "datasets:owner/name:en:train", "--training.checkpoint_every", "1"]
    status, _, manifest = sweep(*once)
    assert status == 0
    assert manifest["corpus"]["revision"] == manifest["recipe"]["corpus"]["revision"] == "abc"
    # resumed when the hub has a newer one: what was begun with is read on
    [member] = (tmp_path / "runs" / "r" / "members").iterdir()
    for path in sorted((member / "step-000000002").iterdir()):
        path.unlink()
    (member / "step-000000002").rmdir()
    status, said, manifest = sweep(*once)
    assert status == 0
    assert "resuming at step 1" in said
    assert {revision for *_, revision in asked} <= {"abc"}
    assert commits == ["def", "def"]


@pytest.mark.parametrize(
    "words",
    [
        ["--corpus", "~no-such-user/x"],
        ["--corpus", "datasets:~no-such-user/x"],
        ["--corpus", "texts", "--corpus.template", "~no-such-user/x"],
        ["--model", "~no-such-user/x"],
        ["--activations.rows", "~no-such-user/x.npy"],
        ["--activations.store", "~no-such-user/store"],
    ],
)
def test_the_home_of_nobody_is_a_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It was a traceback: Could not determine home directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["sweep", *words, *FAST, "--name", "nobody"]) == 2
    assert "~no-such-user" in capsys.readouterr().err.splitlines()[-1]
