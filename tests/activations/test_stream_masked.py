"""A masked corpus: the model reads every token, and only those that are kept become rows, each once an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from echo_model import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.activations.store import Store, harvest
from unmix.activations.stream import Stream

N, T = 10, 6
IDS = np.arange(N * T, dtype=np.uint16).reshape(N, T)
KEPT = np.random.default_rng(0).random((N, T)) < 0.4
KEPT[3:6] = False  # sequences, and with chunks of one also whole chunks, of which nothing is kept


def stream(batch: int = 7, chunk: int = 3, seed: int = 0, kept: Any = KEPT) -> Stream:
    return Stream(Echo(), IDS, ["h"], batch_tokens=batch, chunk_sequences=chunk, seed=seed, kept_NT=kept)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 50), chunk=st.integers(1, 12), first=st.integers(0, 30), more=st.integers(1, 10),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_batches_do_not_depend_on_where_reading_began(batch: int, chunk: int, first: int, more: int, seed: int) -> None:
    from_start = list(stream(batch, chunk, seed).batches(0, first + more))[first:]
    from_middle = list(stream(batch, chunk, seed).batches(first, first + more))
    for a, b in zip(from_start, from_middle, strict=True):
        assert len(a.token_ids_B) == batch
        assert torch.equal(a.activations["h"], b.activations["h"])
        assert torch.equal(a.token_ids_B, b.token_ids_B)


def test_what_is_kept_comes_once_an_epoch_with_its_own_activations() -> None:
    s = stream(batch=1, chunk=5)
    assert s.size == KEPT.sum()
    rows = list(s.batches(0, 2 * s.size))
    ids = [int(row.token_ids_B) for row in rows]
    assert sorted(ids[: s.size]) == sorted(ids[s.size :]) == IDS[KEPT].tolist()
    assert ids[: s.size] != ids[s.size :]
    for row in rows:
        assert torch.equal(row.activations["h"][:, 0].long(), row.token_ids_B)
        assert torch.equal(row.activations["h"][:, 1].long(), row.positions_B)


def test_a_mask_that_keeps_everything_changes_no_bit() -> None:
    for a, b in zip(stream(kept=None).batches(0, 30), stream(kept=np.ones((N, T), bool)).batches(0, 30), strict=True):
        assert torch.equal(a.activations["h"], b.activations["h"])
        assert torch.equal(a.token_ids_B, b.token_ids_B)


def test_a_store_of_it_gives_the_same_batches_and_the_same_head(tmp_path: Any) -> None:
    s = stream()
    facts = {"sequence_length": T, "chunk_sequences": 3}
    harvest(s, tmp_path / "s", tokens=40, dtype="float32", facts=facts, shard_tokens=20)
    store = Store(tmp_path / "s", ["h"], batch_tokens=7)
    for a, b in zip(stream().batches(0, 5), store.batches(0, 5), strict=True):
        assert torch.equal(a.activations["h"], b.activations["h"])
    assert torch.equal(s.head().activations["h"], store.head().activations["h"])
