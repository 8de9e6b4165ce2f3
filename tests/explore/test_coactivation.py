"""Which features are active together, against counting pair by pair."""

import numpy as np
import pytest
from explore.stores import ALWAYS, DEAD, MEMBER, make_world, write_store

from unmix.explore import coactivation
from unmix.explore.coactivation import partners, sampled_tokens


def twin(world, tokens, k):
    """[(j, P(j | i), Jaccard) …] of each feature."""
    on_RF = (world.f_RF[:tokens] != 0) & ~world.masked_R[:tokens, None]
    F = on_RF.shape[1]
    found = []
    for i in range(F):
        rows = []
        for j in range(F):
            both = sum(bool(a and b) for a, b in zip(on_RF[:, i], on_RF[:, j], strict=True))
            if j != i and both:
                either = sum(bool(a or b) for a, b in zip(on_RF[:, i], on_RF[:, j], strict=True))
                rows.append((j, both / on_RF[:, i].sum(), both / either))
        found.append(sorted(rows, key=lambda row: (-np.float32(row[2]), row[0]))[:k])
    return found


@pytest.mark.parametrize("sequences", [40, 11])
def test_every_pair_is_counted(tmp_path, sequences):
    world = make_world(3)
    store, tokens = write_store(world, tmp_path, 7), sequences * world.T
    entries = store.entries(MEMBER, 0, world.f_RF.shape[1], before_token=tokens)
    found = partners(entries, world.text, tokens, k=5)
    for i, expected in enumerate(twin(world, tokens, 5)):
        there = int((found.features_FK[i] >= 0).sum())
        assert found.features_FK[i, :there].tolist() == [j for j, _, _ in expected]
        assert found.given_FK[i, :there] == pytest.approx([given for _, given, _ in expected])
        assert found.jaccard_FK[i, :there] == pytest.approx([jaccard for _, _, jaccard in expected])
    assert (found.features_FK[DEAD] == -1).all()
    assert DEAD not in found.features_FK[ALWAYS]


def test_equal_partners_come_by_their_number():
    world = make_world(0, features=9)
    world.f_RF[:] = 0
    world.f_RF[1::2, [2, 5, 7]] = 1
    world.masked_R[:] = False
    feature_n, token_n = world.f_RF.T.nonzero()
    from unmix.explore.store import Entries

    starts = np.searchsorted(feature_n, np.arange(10))
    found = partners(Entries(0, starts, token_n, np.ones(len(token_n), np.float32)), world.text, len(world.id_R), k=3)
    assert found.features_FK[[2, 5, 7]].tolist() == [[5, 7, -1], [2, 7, -1], [2, 5, -1]]
    assert (found.jaccard_FK[5] == [1, 1, 0]).all()


def test_the_sample_is_whole_sequences_within_the_bounds(monkeypatch):
    l0_R = np.array([1, 2, 3, 4, 5, 6, 1, 1])
    monkeypatch.setattr(coactivation, "PAIRS", 30)
    assert sampled_tokens(l0_R, 2) == 4  # 1 + 4 + 9 + 16 = 30
    monkeypatch.setattr(coactivation, "PAIRS", 10**9)
    monkeypatch.setattr(coactivation, "ENTRIES", 21)
    assert sampled_tokens(l0_R, 2) == 6
    monkeypatch.setattr(coactivation, "ENTRIES", 0)
    assert sampled_tokens(l0_R, 2) == 2  # at least one
