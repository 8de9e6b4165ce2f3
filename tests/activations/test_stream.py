"""Batch s is a pure function of s; every token of an epoch comes once."""

import numpy as np
import torch
from echo_model import Echo
from hypothesis import given, settings
from hypothesis import strategies as st

from unmix.activations.stream import Stream


def stream(sequences=10, length=6, batch=7, chunk=3, seed=0):
    ids = np.arange(sequences * length, dtype=np.uint16).reshape(sequences, length)
    return Stream(Echo(), ids, ["h"], batch_tokens=batch, chunk_sequences=chunk, seed=seed)


@settings(deadline=None)
@given(
    batch=st.integers(1, 50),
    chunk=st.integers(1, 12),
    first=st.integers(0, 30),
    more=st.integers(1, 10),
    seed=st.integers(0, 5),
)
def test_batches_do_not_depend_on_where_reading_began(batch, chunk, first, more, seed):
    from_start = list(stream(batch=batch, chunk=chunk, seed=seed).batches(0, first + more))[first:]
    from_middle = list(stream(batch=batch, chunk=chunk, seed=seed).batches(first, first + more))
    for a, b in zip(from_start, from_middle, strict=True):
        assert torch.equal(a.activations["h"], b.activations["h"])
        assert torch.equal(a.token_ids_B, b.token_ids_B)


def test_ids_and_positions_travel_with_their_activations():
    for batch in stream().batches(0, 20):
        assert torch.equal(batch.activations["h"][:, 0].long(), batch.token_ids_B)
        assert torch.equal(batch.activations["h"][:, 1].long(), batch.positions_B)


def test_every_token_comes_once_an_epoch_and_epochs_differ():
    ids = torch.cat([b.token_ids_B for b in stream(batch=60, chunk=5).batches(0, 2)])
    assert sorted(ids[:60].tolist()) == list(range(60))
    assert sorted(ids[60:].tolist()) == list(range(60))
    assert ids[:60].tolist() != ids[60:].tolist()


def test_a_chunk_is_harvested_once():
    s = stream(batch=6, chunk=5)
    list(s.batches(0, 5))
    assert s.model.passes == 1
