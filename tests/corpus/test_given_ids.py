"""Token ids that others made: checked, BOS once a row, documents kept apart, packed rows told from documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import tiny_tokenizer

from unmix.config import CorpusConfig
from unmix.corpus import tokens
from unmix.corpus.streams import _LONGEST
from unmix.corpus.tokens import Tokens, documents_of, load_tokens
from unmix.errors import UserError

T = 16
EOT = tiny_tokenizer()
TWO = tiny_tokenizer()
"""With a BOS (288) that is not the separator, and padding (289)."""
TWO.add_special_tokens({"bos_token": "<s>", "pad_token": "<pad>"})
BOS, PAD, SEPARATOR = 288, 289, 0
DOCUMENTS = [[5 + (n * k + k * k) % 200 for k in range(3 + n % 11)] for n in range(120)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


def load(path: Path, tokenizer: Any = TWO, **keys: Any) -> tuple[Tokens, str]:
    said: list[str] = []
    config = CorpusConfig(source=str(path), field="input_ids", held_out_fraction=1e-9, **keys)
    return load_tokens(config, tokenizer, keys.pop("T", T), "train", say=said.append), " | ".join(said)


def write(path: Path, rows: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(
            pa.table({"input_ids": pa.array([list(map(int, row)) for row in rows], pa.list_(pa.int32()))}),
            path,
            row_group_size=7,
        )
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"input_ids": list(map(int, row))}) for row in rows))
    else:
        np.save(path, np.array(rows))
    return path


def flat(rows: Any) -> list[int]:
    return [i for row in rows for i in row]


def expected(documents: Any) -> list[int]:
    ids = flat([*document, SEPARATOR] for document in documents)
    return ids[: len(ids) // (T - 1) * (T - 1)]


FORMS = {
    "bare": lambda d: d,
    "with bos": lambda d: [BOS, *d],
    "with both": lambda d: [BOS, *d, SEPARATOR],
    "doubled": lambda d: [BOS, BOS, *d, SEPARATOR],
    "padded": lambda d: [*d, SEPARATOR, *[PAD] * (20 - len(d))],
    "padded on the left": lambda d: [*[PAD] * (20 - len(d)), BOS, *d],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_documents_come_out_the_same_however_they_are_framed(tmp_path: Path, suffix: str, form: str) -> None:
    got, said = load(write(tmp_path / f"a{suffix}", [FORMS[form](d) for d in DOCUMENTS]))
    assert (got.ids_NT[:, 0] == BOS).all()
    assert got.ids_NT[:, 1:].ravel().tolist() == expected(DOCUMENTS)
    assert (got.documents, got.given, got.bytes) == (len(DOCUMENTS), True, 0)
    assert "token ids are read as documents" in said
    assert ("the '<s>' before each of them is not doubled" in said) == (form in ("with bos", "with both", "doubled"))
    assert ("'<|endoftext|>' is put between them" in said) == (
        form in ("bare", "with bos", "padded on the left", "padded")
    )
    assert said == " | ".join(got.remarks)


def test_they_are_the_ids_that_the_text_gives(tmp_path: Path) -> None:
    texts = [f"def f{n}(self): return {n}\n" * (1 + n % 3) for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    config = CorpusConfig(source=str(tmp_path / "a.jsonl"), held_out_fraction=1e-9)
    of_text = load_tokens(config, EOT, T, "train")
    ids = [EOT(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert load(write(tmp_path / "b.parquet", ids), EOT)[0].fingerprint == of_text.fingerprint


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl"])
@pytest.mark.parametrize("with_bos", [True, False])
def test_packed_rows_of_the_same_length_stay_as_they_are(tmp_path: Path, suffix: str, with_bos: bool) -> None:
    stream = np.array(expected(DOCUMENTS)).reshape(-1, T - 1)
    rows = np.concatenate([np.full((len(stream), 1), BOS), stream], 1) if with_bos else stream
    got, said = load(write(tmp_path / f"a{suffix}", rows))
    assert np.array_equal(got.ids_NT[:, 1:], stream)
    assert (got.ids_NT[:, 0] == BOS).all()
    assert f"rows of {rows.shape[1]} ids are read as pieces of one stream" in said
    assert ("not doubled" in said) == with_bos
    assert got.documents == len(rows)


def test_packed_rows_of_another_length_are_cut_anew_and_boundaries_stay(tmp_path: Path) -> None:
    whole = expected(DOCUMENTS)
    rows = np.array(whole[: len(whole) // 40 * 40]).reshape(-1, 40)
    got, _ = load(write(tmp_path / "a.npy", rows))
    n = rows.size // (T - 1) * (T - 1)
    assert got.ids_NT[:, 1:].ravel().tolist() == whole[:n]
    numbers = documents_of(TWO, got, np.arange(len(got.ids_NT)))[:, 1:].ravel()
    wanted = np.repeat(np.arange(len(DOCUMENTS)), [len(d) + 1 for d in DOCUMENTS])[:n]
    assert np.array_equal(numbers, wanted)


@pytest.mark.parametrize("width", [40, 31])
def test_a_bos_within_packed_rows_begins_a_document_wherever_a_row_is_cut(tmp_path: Path, width: int) -> None:
    """In the middle of a row, at its end, and first behind the row's own; some behind a separator, which count once."""
    stream = flat([BOS, *d, *[SEPARATOR] * (n % 5 == 0)] for n, d in enumerate(DOCUMENTS))
    rows = np.array(stream[: len(stream) // width * width]).reshape(-1, width)
    got, _ = load(write(tmp_path / "a.npy", rows), packed=True)
    N = len(got.ids_NT)
    flowing = got.ids_NT[:, 1:].ravel()
    assert (got.ids_NT[:, 1] == BOS).sum() > 2, "no row begins with a BOS of the stream"
    begins = np.zeros(len(flowing), int)
    begins[1:] = (flowing[1:] == BOS) | (flowing[:-1] == SEPARATOR)
    wanted = begins.cumsum().reshape(N, T - 1)
    chosen = np.random.default_rng(0).permutation(N)[: N // 2]
    assert np.array_equal(documents_of(TWO, got, chosen)[:, 1:], wanted[chosen])


def test_packed_can_be_told_either_way(tmp_path: Path) -> None:
    rows = [[5, 6, 7, 8]] * 40
    path = write(tmp_path / "a.jsonl", rows)
    assert load(path)[0].ids_NT[0, 1:6].tolist() == [5, 6, 7, 8, 5]
    assert load(path, packed=False)[0].ids_NT[0, 1:6].tolist() == [5, 6, 7, 8, SEPARATOR]
    of_several = write(tmp_path / "b.jsonl", [[5, 6, 7], [8, 9]] * 40)
    got, said = load(of_several, packed=True)
    assert got.ids_NT[0, 1:6].tolist() == [5, 6, 7, 8, 9]
    assert "rows of several lengths" in said
    assert "no '<|endoftext|>' stands in the first of them: document boundaries are not known" in said


def test_a_row_without_the_bos_of_the_others_loses_no_token(tmp_path: Path) -> None:
    rows = [[BOS, 5, 6, 7]] * 70 + [[8, 9, 10, 11]] * 10
    got, _ = load(write(tmp_path / "a.npy", rows))
    assert set(got.ids_NT.ravel().tolist()) == {BOS, 5, 6, 7, 8, 9, 10, 11}


@pytest.mark.parametrize("mark", ["separator", "bos"])
def test_a_stream_is_cut_into_its_documents(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmix.corpus.streams._BLOCK", 50)  # documents lie across blocks
    framed = [[*d, SEPARATOR] if mark == "separator" else [BOS, *d] for d in DOCUMENTS]
    np.save(tmp_path / "a.npy", np.array(flat(framed), np.uint16))
    got, said = load(tmp_path / "a.npy")
    assert got.documents == len(DOCUMENTS)
    assert got.ids_NT[:, 1:].ravel().tolist() == expected(DOCUMENTS)
    assert "token ids are read as documents" in said


def test_documents_of_a_stream_that_are_all_as_long_are_no_packed_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([BOS, 5, 6, 7] * 60, np.uint16))
    got, said = load(tmp_path / "a.npy")
    assert got.ids_NT[0, 1:9].tolist() == [5, 6, 7, SEPARATOR] * 2
    assert "the '<s>' before each of them is not doubled" in said


def test_a_stream_without_separators_is_cut_so_that_it_can_be_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5, 5 + 3 * _LONGEST + 100) % 200 + 5)
    got, _ = load(tmp_path / "a.npy")
    assert got.documents == 4
    assert not (got.ids_NT[: 3 * _LONGEST // T, 1:] == SEPARATOR).any()  # no document ends where it was cut


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [("uint16", lambda ids: ids.astype("<u2").tobytes()), ("int64", lambda ids: ids.astype("<i8").tobytes())],
)
def test_a_bin_file(tmp_path: Path, dtype: str, raw: Any) -> None:
    ids = np.array(expected(DOCUMENTS))
    (tmp_path / "a.bin").write_bytes(raw(ids))
    assert load(tmp_path / "a.bin", ids_dtype=dtype)[0].ids_NT[:, 1:].ravel().tolist() == ids.tolist()
    with pytest.raises(UserError, match=r"a\.bin holds numbers without a header; .*--corpus\.ids_dtype uint16"):
        load(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(raw(ids) + b"x")
    with pytest.raises(UserError, match=rf"a\.bin has .* bytes, which are no whole {dtype} ids"):
        load(tmp_path / "a.bin", ids_dtype=dtype)


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_a_bin_file_of_llm_c_says_itself_what_it_is(tmp_path: Path, magic: int, dtype: str) -> None:
    ids = np.array(expected(DOCUMENTS))
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, len(ids)
    raw = header.tobytes() + ids.astype(dtype).tobytes()
    (tmp_path / "a.bin").write_bytes(raw)
    assert load(tmp_path / "a.bin")[0].ids_NT[:, 1:].ravel().tolist() == ids.tolist()
    (tmp_path / "a.bin").write_bytes(raw[:-8])
    with pytest.raises(UserError, match=r"a\.bin is cut short: .* of .* ids"):
        load(tmp_path / "a.bin")


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl"])
def test_an_id_of_another_tokenizer_is_refused_by_place(tmp_path: Path, suffix: str) -> None:
    for wrong in (290, -100):
        rows = [[5, 6, 7, 8]] * 100
        rows[90] = [5, wrong, 7, 8]
        with pytest.raises(UserError, match=rf"a\{suffix}, (row|line) 91 holds the id {wrong}, and .* from 0 to 289"):
            load(write(tmp_path / f"a{suffix}", rows))


def test_what_else_stands_there_is_said(tmp_path: Path) -> None:
    TWO_MORE = tiny_tokenizer()
    TWO_MORE.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    rows = [[288, 5, 6, 7, 8, 9][: 3 + n % 3] for n in range(60)]
    assert "special tokens among the first: '<|im_start|>' (60)" in load(write(tmp_path / "a.jsonl", rows), TWO_MORE)[1]


def test_numbers_that_are_no_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(100, np.float32))
    with pytest.raises(UserError, match=r"a\.npy holds float32, and token ids are integers"):
        load(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.ones((2, 2, 2), int))
    with pytest.raises(UserError, match=r"b\.npy has the shape \[2, 2, 2\]"):
        load(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"c\.npy is not a readable \.npy of numbers"):
        load(tmp_path / "c.npy")


def test_numbers_beside_texts_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "labels.npy", np.arange(5, 200))
    (folder / "a.txt").write_text("some text\n" * 40)
    config = CorpusConfig(source=str(folder), held_out_fraction=1e-9)
    got = load_tokens(config, EOT, T, "train")
    assert got.remarks == ("1 file passed over: 1 .npy",)
    assert not got.given
    with pytest.raises(UserError, match=r"labels\.npy.* holds token ids, and what was read of .* before holds text"):
        load(folder)
    (folder / "a.txt").unlink()
    with pytest.raises(
        UserError, match=r"labels\.npy holds numbers; if they are token ids, give --corpus\.field input_ids"
    ):
        load_tokens(config, EOT, T, "train")
    assert load(folder)[0].given


def test_keys_for_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a text", "input_ids": [5, 6]}\n' * 40)
    for key, value, kind in [
        ("packed", True, "token ids"),
        ("roles", ["user"], "chats"),
        ("template_tokens", False, "chats"),
    ]:
        config = CorpusConfig.model_validate({"source": str(tmp_path / "a.jsonl"), key: value})
        with pytest.raises(UserError, match=rf"corpus\.{key} is for {kind}, and .* holds text; leave it out"):
            load_tokens(config, EOT, T, "train")


def test_the_split_is_by_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DOCUMENTS * 2)
    config = CorpusConfig(source=str(path), field="input_ids", held_out_fraction=0.4)
    sides = [load_tokens(config, TWO, T, split) for split in ("train", "held_out")]  # type: ignore[arg-type]
    assert sum(side.documents for side in sides) == 2 * len(DOCUMENTS)
    assert all(side.documents % 2 == 0 for side in sides)  # a copied document lands on the side of its twin
    assert tokens.special_ids(TWO, sides[0]) == [0, BOS, PAD]


def test_ids_that_are_cached_are_those_of_the_same_padding(tmp_path: Path) -> None:
    """Which token pads is no part of tokenizer.json: another one makes other tokens of the same file."""
    rows = [[*document, *[7] * (20 - len(document))] for document in DOCUMENTS]
    path = write(tmp_path / "a.jsonl", rows)
    before, _ = load(path, tiny_tokenizer())
    padding = tiny_tokenizer()
    padding.pad_token = padding.convert_ids_to_tokens(7)
    after, _ = load(path, padding)
    assert np.count_nonzero(before.ids_NT == 7) > np.count_nonzero(after.ids_NT == 7)
