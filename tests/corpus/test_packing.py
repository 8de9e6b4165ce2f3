"""Rows of documents that lie one behind the other, with a BOS in front and without one."""

import numpy as np
import pytest

from unmix.corpus.encode import Piece
from unmix.corpus.packing import rows

BOS, T = 99, 4


def pieces():
    """Ids 0 to 24 in documents of 1 to 6 tokens, of which every third is not kept."""
    start = 0
    for length in (6, 1, 5, 3, 4, 6):
        ids = np.arange(start, start + length, dtype=np.uint32)
        yield Piece(ids, ids % 3 != 0, 0)
        start += length


@pytest.mark.parametrize("bos", [BOS, None])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_hold_the_ids_in_order_and_the_bos_only_where_it_is_wanted(bos, masked):
    found = list(rows(pieces(), bos, T, masked))
    ids_NT = np.concatenate([block.ids_nT for block in found])
    lead = 0 if bos is None else 1
    taken = 25 // (T - lead) * (T - lead)
    assert ids_NT[:, lead:].ravel().tolist() == list(range(taken))
    assert (ids_NT[:, :lead] == BOS).all()
    assert (ids_NT == BOS).sum() == lead * len(ids_NT)
    if not masked:
        assert all(block.kept_nT is None for block in found)
        return
    kept_NT = np.concatenate([block.kept_nT for block in found])
    assert kept_NT[:, lead:].ravel().tolist() == [i % 3 != 0 for i in range(taken)]
    assert not kept_NT[:, :lead].any()
