"""The pairing of two lists, against every pairing there is."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmix.evaluation.matching import best_matching


def best(likeness):
    """By trying all of them; no more rows than columns."""
    R, C = likeness.shape
    orders = torch.tensor(list(permutations(range(C), R)))
    return likeness[torch.arange(R), orders].sum(1).max().item()


def check(likeness):
    r, c = best_matching(likeness)
    assert len(set(r.tolist())) == len(set(c.tolist())) == len(r) == len(c) == min(likeness.shape)
    assert r.tolist() == sorted(r.tolist())
    wide = likeness if likeness.shape[0] <= likeness.shape[1] else likeness.T
    assert likeness[r, c].sum().item() == pytest.approx(best(wide), abs=1e-5)


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 2**31), digits=st.sampled_from([1, 3, 100])
)
def test_no_pairing_is_better(rows, columns, seed, digits):
    likeness = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    check((likeness * digits).round() / digits - 0.3)  # ties, and numbers below 0


@pytest.mark.parametrize("shape", [(6, 6), (5, 7), (7, 5)])
def test_no_pairing_is_better_where_all_rows_want_the_same_columns(shape):
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        check(torch.rand(shape, generator=g) + 2 * torch.rand(shape[1], generator=g))


def test_where_each_row_s_nearest_is_taken_another_is_found():
    likeness = torch.tensor([[0.9, 0.8, 0.0], [0.9, 0.1, 0.0], [0.85, 0.1, 0.0]])
    r, c = best_matching(likeness)
    assert dict(zip(r.tolist(), c.tolist(), strict=True)) == {0: 1, 1: 0, 2: 2}


def test_a_permutation_is_found_again():
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    likeness = 0.9 * torch.rand(300, 300, generator=torch.Generator().manual_seed(1))
    likeness[torch.arange(300), order] = 1
    assert best_matching(likeness)[1].equal(order)
