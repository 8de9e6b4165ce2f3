"""Rows of one's own: which are held out, in which order the others are read, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from unmix.activations.arrays import Arrays, open_files, split
from unmix.errors import UserError

X_RD = np.arange(600, dtype=np.float32).reshape(200, 3)  # row r is (3r, 3r + 1, 3r + 2)


def source(arrays: Any = X_RD, **changed: Any) -> Arrays:
    arrays = arrays if isinstance(arrays, dict) else {"h": arrays}
    return Arrays(arrays, **{"batch_tokens": 7, "chunk_rows": 50, "held_out": 0.1, "seed": 0} | changed)


@settings(max_examples=60)
@given(rows=st.integers(2, 5000), share=st.floats(0.01, 0.6), seed=st.integers(0, 3))
def test_every_row_is_trained_on_or_held_out(rows: int, share: float, seed: int):
    try:
        train_R, held_R = split(rows, share, seed)
    except UserError:
        assert rows * (1 - share) < 2
        return
    assert sorted([*train_R, *held_R]) == list(range(rows))
    assert len(train_R)
    assert len(held_R)
    assert abs(len(held_R) / rows - share) <= 2 / 64 + 2 / rows


def test_neighbours_are_held_out_together():
    _, held_R = split(100_000, 0.1, 0)
    assert (np.diff(held_R) == 1).mean() > 0.98


def test_an_epoch_reads_every_training_row_once_and_a_new_one_in_another_order():
    rows = source()
    n = rows.size
    ids = torch.cat([batch.token_ids_B for batch in rows.batches(0, 2 * n // 7 + 1)])
    first, second = ids[:n].tolist(), ids[n : 2 * n].tolist()
    assert sorted(first) == sorted(second[: len(ids) - n]) == rows.train_R.tolist()
    assert first != second
    assert not set(first) & set(rows.held_out_R.tolist())


def test_a_row_comes_with_its_own_activations():
    [batch] = source().batches(4, 5)
    assert torch.equal(batch.activations["h"], torch.from_numpy(X_RD)[batch.token_ids_B])


@pytest.mark.parametrize("step", [0, 13, 40])
def test_a_batch_is_a_function_of_its_number(step: int):
    *_, far = source().batches(0, step + 1)
    [alone] = source().batches(step, step + 1)
    assert torch.equal(far.activations["h"], alone.activations["h"])
    assert torch.equal(far.token_ids_B, alone.token_ids_B)


def test_kinds_of_arrays_read_alike(tmp_path: Path):
    np.save(tmp_path / "x.npy", X_RD)
    save_file({"h": X_RD, "other": X_RD[:, :1]}, tmp_path / "x.safetensors")
    save_file({"any name": X_RD}, tmp_path / "one.safetensors")
    want = next(source().batches(3, 4)).activations["h"]
    kinds = [
        torch.from_numpy(X_RD), torch.from_numpy(X_RD).bfloat16().float(), X_RD.astype(np.float64),
        np.memmap(tmp_path / "x.npy", np.float32, "r", 128, X_RD.shape),
        open_files(tmp_path / "x.npy", ["h"]), open_files(tmp_path / "x.safetensors", ["h"]),
        open_files(tmp_path / "one.safetensors", ["h"]),
    ]  # fmt: skip
    for kind in kinds[:1] + kinds[2:]:
        found = next(source(kind).batches(3, 4)).activations["h"]
        assert found.dtype == torch.float32
        assert torch.equal(found, want)
    half = next(source(torch.from_numpy(X_RD).half()).batches(3, 4)).activations["h"]
    assert torch.equal(half, want.half().float())


def test_held_out_rows_are_those():
    rows = source()
    held = torch.cat([arrays["h"] for arrays in rows.held_out(10**6)])
    assert torch.equal(held, torch.from_numpy(X_RD)[rows.held_out_R])
    assert sum(len(arrays["h"]) for arrays in rows.held_out(5)) == 5


def test_the_fingerprint_is_of_what_is_read():
    changed = X_RD.copy()
    changed[0, 0] += 1
    assert source().fingerprint == source(torch.from_numpy(X_RD)).fingerprint
    assert source().fingerprint != source(changed).fingerprint
    assert source().fingerprint != source({"g": X_RD}).fingerprint


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (X_RD[0], r"h: the shape \(3,\) is not \[tokens, D\]"),
        (X_RD.astype(np.int64), "h: activations of dtype int64"),
        (torch.zeros(4, 3, dtype=torch.bool), "h: activations of dtype torch.bool"),
        (X_RD[:0], "h: there are no rows"),
        (X_RD[:1], "1 activations are too few"),
        ({"a": X_RD, "b": X_RD[:10]}, "200 of a, 10 of b"),
        ({"a": [[1.0]]}, "a: list is no tensor"),
    ],
)
def test_what_is_no_rows_is_refused(arrays: Any, said: str):
    with pytest.raises(UserError, match=said):
        source(arrays)


def test_files_that_do_not_fit_are_refused(tmp_path: Path):
    np.save(tmp_path / "x.npy", X_RD)
    save_file({"a": X_RD, "b": X_RD}, tmp_path / "x.safetensors")
    (tmp_path / "torn.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, hooks, said in (
        ("none.npy", ["a"], "there is no file"),
        ("x.npy", ["a", "b"], "holds the rows of one hook"),
        ("x.safetensors", ["c"], "has no tensor c; it has a, b"),
        ("torn.npy", ["a"], "cannot be read"),
        ("torn.safetensors", ["a"], "cannot be read"),
        ("objects.npy", ["a"], "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            open_files(tmp_path / name, hooks)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(UserError, match=r"is no \.npy or \.safetensors file"):
        open_files(tmp_path / "x.csv", ["a"])
