"""Sequences hold the documents' ids in order, never a special token out of text, and come whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import EOT, tiny_tokenizer
from tokenizers import Tokenizer

from unmix.config import CorpusConfig
from unmix.corpus import encode, folders, packing, tokens
from unmix.corpus.split import is_held_out
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError

TEXTS = [f"def f{n}(self): return {n}\n" * (1 + n % 3) for n in range(60)] + [f"import a{EOT}b", "é" * 50]
T = 16
TOKENIZER = tiny_tokenizer()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return file


def load(source: Path, split: tokens.Split = "train", **kwargs: object) -> Tokens:
    config = CorpusConfig.model_validate({"source": str(source), "held_out_fraction": 0.3, **kwargs})
    return load_tokens(config, TOKENIZER, T, split)


def expected(split: str) -> tuple[list[str], list[int]]:
    texts = [text for text in TEXTS if is_held_out(text, 0.3) == (split == "held_out")]
    ids = []
    for text in texts:
        ids += TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] + [0]
    return texts, ids


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("batch", [1, 100, 10**6])
def test_the_sequences_are_the_documents(
    source: Path, split: tokens.Split, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", batch)
    texts, ids = expected(split)
    got = load(source, split)
    assert got.ids_NT.dtype == np.uint16
    assert got.ids_NT.shape == (len(ids) // (T - 1), T)
    assert (got.ids_NT[:, 0] == got.bos_id).all()
    assert got.ids_NT[:, 1:].flatten().tolist() == ids[: len(ids) // (T - 1) * (T - 1)]
    assert (got.documents, got.bytes) == (len(texts), sum(len(text.encode()) for text in texts))
    assert got.split == split


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_every_token_is_of_the_document_it_came_from(source: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_ROWS_AT_ONCE", block)
    texts, _ = expected("train")
    got = load(source)
    lengths = [len(TOKENIZER(t, add_special_tokens=False, split_special_tokens=True)["input_ids"]) + 1 for t in texts]
    N = len(got.ids_NT)
    wanted = np.repeat(np.arange(len(texts)), lengths)[: N * (T - 1)].reshape(N, T - 1)
    rows = np.random.default_rng(0).permutation(N)[: N // 2]
    found = tokens.documents_of(TOKENIZER, got, rows)
    assert np.array_equal(found[:, 1:], wanted[rows])
    assert np.array_equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_rows_without_a_bos_are_the_documents_alone(source: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_ROWS_AT_ONCE", block)
    texts, ids = expected("train")
    with_bos = load(source)
    config = CorpusConfig(source=str(source), held_out_fraction=0.3)
    got = load_tokens(config, TOKENIZER, T, "train", bos=False)
    N = len(ids) // T
    assert got.ids_NT.ravel().tolist() == ids[: N * T]
    assert (got.bos, got.skip, with_bos.bos, with_bos.skip) == (False, 0, True, 1)
    assert got.fingerprint != with_bos.fingerprint
    lengths = [len(TOKENIZER(t, add_special_tokens=False, split_special_tokens=True)["input_ids"]) + 1 for t in texts]
    wanted = np.repeat(np.arange(len(texts)), lengths)[: N * T].reshape(N, T)
    chosen = np.random.default_rng(0).permutation(N)
    assert (got.ids_NT[chosen, 0] == 0).any()  # a separator at the start of a row ends its document
    assert np.array_equal(tokens.documents_of(TOKENIZER, got, chosen), wanted[chosen])
    few = load_tokens(config.model_copy(update={"max_tokens": 5 * T}), TOKENIZER, T, "train", bos=False)
    assert few.ids_NT.ravel().tolist() == ids[: 5 * T]
    monkeypatch.setattr(tokens, "rows", None)  # would fail if called: each comes from an entry of its own
    again = load_tokens(config, TOKENIZER, T, "train", bos=False)
    assert (again.bos, again.fingerprint) == (False, got.fingerprint)
    assert load(source).fingerprint == with_bos.fingerprint


def test_text_gives_no_special_token(tmp_path: Path, source: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"{EOT}a{EOT}" * 20)
    side: tokens.Split = "held_out" if is_held_out(file.read_text(), 0.3) else "train"
    got = load(file, side)
    assert not (got.ids_NT[:, 1:] == 0).any()
    assert TOKENIZER(EOT)["input_ids"] == [0]  # the tokenizer given is as it was
    assert EOT in TOKENIZER.decode(got.ids_NT[0, 1:])


def test_the_second_time_comes_from_the_cache(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(source)
    monkeypatch.setattr(tokens, "rows", None)  # would fail if called
    again = load(source)
    assert np.array_equal(first.ids_NT, again.ids_NT)
    assert again.fingerprint == first.fingerprint
    assert isinstance(again.ids_NT, np.memmap)
    assert not again.ids_NT.flags.writeable


def test_whatever_changes_the_ids_is_another_entry(source: Path) -> None:
    prints = {
        load(source).fingerprint,
        load(source, "held_out").fingerprint,
        load(source, max_tokens=5 * T).fingerprint,
    }
    source.write_text(source.read_text() + "\n" + json.dumps({"text": "pass " * 100}))
    prints |= {load(source).fingerprint, load(source, "held_out").fingerprint}
    assert len(prints) == 4  # the new document fell on one side


def test_a_torn_file_is_made_again(source: Path, tmp_path: Path) -> None:
    first = np.array(load(source).ids_NT)
    [stored] = (tmp_path / "cache" / "tokens").glob("*.bin")
    stored.write_bytes(stored.read_bytes()[:-1])
    assert np.array_equal(load(source).ids_NT, first)
    stored.with_suffix(".json").write_text("{")
    assert np.array_equal(load(source).ids_NT, first)
    assert {path.suffix for path in stored.parent.iterdir()} == {".bin", ".json"}


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_flipped_bit_is_noticed_and_the_tokens_made_again(source: Path, tmp_path: Path, suffix: str) -> None:
    first = np.array(load(source).ids_NT)
    [stored] = (tmp_path / "cache" / "tokens").glob(f"*{suffix}")
    whole = stored.read_bytes()
    config = CorpusConfig(source=str(source), held_out_fraction=0.3)
    for at in range(1, len(whole), len(whole) // 23):
        damaged = bytearray(whole)
        damaged[at] ^= 2
        stored.write_bytes(damaged)
        said: list[str] = []
        again = load_tokens(config, TOKENIZER, T, "train", say=said.append)
        assert np.array_equal(again.ids_NT, first)
        assert (again.bos_id, again.split) == (0, "train")
        assert stored.read_bytes() == whole
        assert len(said) == 1
        assert "are damaged, or of another chat template, so they are made again" in said[0]


def test_no_old_tokens_for_a_changed_file(source: Path) -> None:
    first = load(source)
    source.write_text(source.read_text().replace("return", "ruturn"))  # as long as before
    assert load(source).fingerprint != first.fingerprint


def test_what_was_passed_over_is_said_with_cached_tokens_too(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    source.rename(folder / "a.jsonl")
    (folder / "b.png").write_text("")
    for _ in range(2):
        said: list[str] = []
        got = load_tokens(CorpusConfig(source=str(folder)), TOKENIZER, T, "train", say=said.append)
        assert said == list(got.remarks) == ["1 file passed over: 1 .png"]


def test_empty_records_are_said_with_cached_tokens_too_and_documents_of_one_token_are_kept(source: Path) -> None:
    lines = ["", "   ", "\n", "a", *TEXTS]
    source.write_text("\n".join(json.dumps({"text": text}) for text in lines))
    config = CorpusConfig(source=str(source), held_out_fraction=0.3)
    for split in ("train", "held_out") * 2:
        said: list[str] = []
        got = load_tokens(config, TOKENIZER, T, split, say=said.append)  # type: ignore[arg-type]
        assert said == list(got.remarks) == [f"3 of {len(lines)} records are empty and were left out"]
        assert got.documents == sum(is_held_out(text, 0.3) == (split == "held_out") for text in lines[3:])


def test_no_more_is_read_than_max_tokens_takes(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(500):
        (folder / f"{n:03}.txt").write_text(f"text {n} of many\n" * 2)
    read: list[Path] = []
    whole = folders.whole
    monkeypatch.setattr(folders, "whole", lambda path: read.append(path) or whole(path))  # type: ignore[func-returns-value]
    got = load(folder, max_tokens=4 * T)
    assert got.ids_NT.shape == (4, T)
    assert 0 < len(read) < 20


@pytest.mark.parametrize(("max_tokens", "sequences"), [(T, 1), (5 * T, 5), (6 * T - 1, 5)])
def test_max_tokens_bounds_the_size(source: Path, max_tokens: int, sequences: int) -> None:
    whole, part = load(source), load(source, max_tokens=max_tokens)
    assert np.array_equal(part.ids_NT, whole.ids_NT[:sequences])
    assert part.documents < whole.documents


def test_progress(source: Path) -> None:
    said: list[int] = []
    config = CorpusConfig(source=str(source))
    got = load_tokens(config, TOKENIZER, T, "train", said.append)
    assert said == sorted(said)
    assert said[-1] == got.ids_NT.size


def test_too_little(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_tokens = 15 is less than one sequence; give at least .* = 16"):
        load(source, max_tokens=T - 1)
    file = tmp_path / "a.txt"
    file.write_text("tiny")
    there: tokens.Split = "held_out" if is_held_out("tiny", 0.3) else "train"
    other: tokens.Split = "train" if there == "held_out" else "held_out"
    with pytest.raises(UserError, match=rf"{there} split .* has \d tokens in 1 documents, less than one sequence"):
        load(file, there)
    with pytest.raises(UserError, match=rf"{other} split .* has 0 tokens in 0 documents"):
        load(file, other)
    assert not list((tmp_path / "cache" / "tokens").iterdir())


def test_markers(source: Path) -> None:
    config = CorpusConfig(source=str(source))
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert load_tokens(config, tokenizer, T, "train").bos_id == 0
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither a BOS nor an EOS token"):
        load_tokens(config, tokenizer, T, "train")


def test_a_large_vocabulary_is_uint32(source: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{n}>" for n in range(2**16)])
    got = load_tokens(CorpusConfig(source=str(source)), tokenizer, T, "train")
    assert got.ids_NT.dtype == np.uint32


@pytest.mark.parametrize(("largest", "dtype"), [(2**16 - 1, np.uint16), (2**16, np.uint32), (70_003, np.uint32)])
def test_ids_with_a_gap_are_stored_as_they_are(source: Path, largest: int, dtype: type) -> None:
    backend = json.loads(TOKENIZER.backend_tokenizer.to_str())
    vocabulary = backend["model"]["vocab"]
    moved = next(token for token, i in vocabulary.items() if i == vocabulary["d"])
    vocabulary[moved] = largest
    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    assert len(tokenizer) < 2**10
    got = load_tokens(CorpusConfig(source=str(source)), tokenizer, T, "train")
    assert got.ids_NT.dtype == dtype
    assert largest in got.ids_NT


def test_an_id_that_does_not_fit_is_refused_and_not_narrowed() -> None:
    assert packing.narrow(np.array([[65_535]], np.uint32), 2).dtype == np.uint16
    with pytest.raises(UserError, match="gives the id 70001, which its vocabulary does not have"):
        packing.narrow(np.array([[3, 70_001]], np.uint32), 2)


def test_a_cache_that_cannot_be_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .* set UNMIX_CACHE to a folder with room"):
        load(source)


@pytest.mark.parametrize(
    ("bos", "eos", "marks", "wanted"),
    [
        ("<|im_start|>", "<|im_end|>", ["<|endoftext|>"], ("<|endoftext|>", "<|endoftext|>")),  # SmolLM2-Instruct
        (None, "<|im_end|>", ["<|endoftext|>"], ("<|endoftext|>", "<|endoftext|>")),  # Qwen
        ("<|begin_of_text|>", "<|eot_id|>", ["<|end_of_text|>"], ("<|begin_of_text|>", "<|end_of_text|>")),  # Llama 3
        ("<|im_start|>", "<|im_end|>", [], ("<|im_start|>", "<|im_end|>")),  # nothing better is there
        ("<s>", "</s>", ["<|endoftext|>"], ("<s>", "</s>")),
    ],
)
def test_rows_begin_with_a_mark_of_documents_not_of_turns(
    bos: str | None, eos: str, marks: list[str], wanted: tuple[str, str]
) -> None:
    special = [token for token in dict.fromkeys([bos, eos, *marks]) if token]
    tokenizer = SimpleNamespace(
        bos_token=bos,
        eos_token=eos,
        added_tokens_decoder=dict(enumerate(special)),
        convert_tokens_to_ids=special.index,
    )
    assert tuple(special[i] for i in tokens.markers(tokenizer)) == wanted


def test_tokens_that_were_read_in_another_way_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("def of(self): return self\n" * 200)
    config = CorpusConfig(source=str(tmp_path / "text"), held_out_fraction=1e-9)
    first = load_tokens(config, tiny_tokenizer(), 16, "train")
    monkeypatch.setattr("unmix.corpus.tokens.READING", 1)
    again = load_tokens(config, tiny_tokenizer(), 16, "train")
    assert again.ids_NT.filename != first.ids_NT.filename
    assert again.fingerprint == first.fingerprint
