"""Batch s is a pure function of s; every token of an epoch comes once."""

import numpy as np
import pytest
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


class Small(Echo):
    """A device with room for so many sequences in a pass."""

    def __init__(self, room):
        super().__init__()
        self.room, self.asked = room, []

    def activations(self, ids_NT, hooks):
        self.asked.append(len(ids_NT))
        if len(ids_NT) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().activations(ids_NT, hooks)


@given(room=st.integers(1, 9))
def test_a_pass_that_there_is_no_room_for_is_made_smaller_and_stays_so(room):
    s, whole = stream(chunk=9, batch=9), stream(chunk=9, batch=9)
    s.model = Small(room)
    for mine, theirs in zip(s.batches(0, 12), whole.batches(0, 12), strict=True):
        assert torch.equal(mine.activations["h"], theirs.activations["h"])
    refused = [asked for asked in s.model.asked if asked > room]
    assert refused == s.model.asked[: len(refused)]


def test_where_one_sequence_is_too_much_it_is_out_of_memory():
    s = stream()
    s.model = Small(0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(s.batches(0, 1))
    assert s.model.asked == [3, 1]
