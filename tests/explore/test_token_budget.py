"""How much of the texts a site keeps: that its files keep to the bytes, and use them."""

from itertools import pairwise

import numpy as np
import pytest
from explore.stores import MEMBER, make_world, write_store

from unmix.explore.pack import script_of_bytes
from unmix.explore.token_budget import LEAST, LEAST_SEQUENCES, MOST, Budget, Kept, kept, packed
from unmix.explore.token_pages import token_pages


def as_it_is(strongest):
    """Pages that packing leaves as long as they are."""
    return 1.0


def test_every_sequence_is_kept_while_a_few_features_of_each_token_fit():
    windows_S, five = np.array([0, 3, 1, 3]), np.full(8, 5)
    whole = 8 * 11 + 40 * 6
    assert kept(windows_S, five, 2, as_it_is, whole) == Kept([0, 1, 2, 3], MOST, whole)
    assert kept(windows_S, five + 1, 2, as_it_is, whole) == Kept([0, 1, 2, 3], 5, whole)  # a sixth is too much
    assert kept(windows_S, five + 1, 2, as_it_is, whole - 1) == Kept([0, 1, 2, 3], 4, 8 * 11 + 32 * 6)
    assert kept(windows_S, five, 2, lambda n: 0.5, whole / 2) == Kept([0, 1, 2, 3], MOST, whole // 2)


def test_where_a_few_do_not_fit_the_sequences_with_the_most_examples_are_kept(monkeypatch):
    monkeypatch.setattr("unmix.explore.token_budget.LEAST_SEQUENCES", 1)
    windows_S, five = np.array([0, 3, 1, 3]), np.full(8, 5)
    one = 2 * 11 + 8 * 6
    assert kept(windows_S, five, 2, as_it_is, 3 * one - 1) == Kept([1, 3], LEAST, 2 * one)
    assert kept(windows_S, five, 2, as_it_is, 0) == Kept([1], LEAST, one)


def test_members_share_what_those_before_them_have_left():
    windows_S = np.zeros(8, int)
    few, many = np.full(8, 1), np.full(8, 60)  # 136 and 2,968 bytes
    budget = Budget(3, 3000)
    found = [budget.take(windows_S, l0_R, 1, as_it_is) for l0_R in (few, many, many)]
    assert [of.strongest for of in found] == [MOST, 28, 28]  # of 1,000, 1,432 and 1,432 bytes
    assert sum(of.bytes for of in found) <= 3000
    assert budget.left == 3000 - sum(of.bytes for of in found)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_files_of_a_store_keep_to_the_bytes_and_use_them(tmp_path, seed):
    world = make_world(seed, sequences=600, T=32, features=60)
    store = write_store(world, tmp_path, 200)
    l0_R, windows_S = np.count_nonzero(world.f_RF, axis=1), np.zeros(600, int)
    share = packed(store, MEMBER, world.text)

    def files(of):
        pages = token_pages(store, MEMBER, world.text, of.sequences, of.strongest)
        return sum(len(script_of_bytes(*page)) for page in pages)

    everything = files(Kept(list(range(600)), MOST, 0))
    sizes = []
    for part in (1.2, 0.9, 0.7, 0.5):
        of = kept(windows_S, l0_R, 32, share, int(part * everything))
        sizes.append(files(of))
        assert len(of.sequences) == 600
        assert sizes[-1] <= 1.01 * part * everything  # a sample says what they come to
        assert of.bytes == pytest.approx(sizes[-1], rel=0.02)
        if part < 1:  # one more of each token would be too much
            assert files(of._replace(strongest=of.strongest + 1)) > 0.98 * part * everything
    assert all(a > b for a, b in pairwise(sizes))
    few = kept(windows_S, l0_R, 32, share, everything // 10)
    assert LEAST_SEQUENCES < len(few.sequences) < 300
    assert files(few) == pytest.approx(everything / 10, rel=0.05)
