"""Every number of a feature equals its slow twin on made-up stores."""

import math
from collections import Counter

import numpy as np
import pytest
from explore import stores
from explore.stores import ALWAYS, DEAD, MASKED_ONLY, ONE_FIRING, ONE_SEQUENCE, ONE_TOKEN, make_world

from unmix.explore.feature import bin_edges, bins, lengths, numbers, spark

WORLDS = [make_world(0), make_world(1, sequences=1, T=40), make_world(2, sequences=90, T=5, features=9)]


def found_of(world, feature):
    text = world.text
    return numbers(*world.entries(feature), text, lengths(text.norm_R), text.counted)


@pytest.mark.parametrize("world", WORLDS)
def test_moments_and_histogram(world):
    R = int((~world.masked_R).sum())
    for feature in range(world.f_RF.shape[1]):
        found, rows = found_of(world, feature), stores.counted(world, feature)
        a = [value for _, value in rows]
        assert found.firings == len(a)
        assert found.density == pytest.approx(len(a) / R)
        if not a:
            assert math.isnan(found.mean)
            assert found.max == 0
            assert len(found.q) == len(found.edges) == len(found.ids_K) == 0
            continue
        mean = math.fsum(a) / len(a)
        assert found.max == max(a)
        assert found.mean == pytest.approx(mean)
        assert found.std == pytest.approx(math.sqrt(math.fsum((x - mean) ** 2 for x in a) / len(a)), abs=1e-12)
        ordered = sorted(a)
        for q, value in zip((0.5, 0.9, 0.99, 0.999), found.q, strict=True):
            at = q * (len(a) - 1)
            low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
            assert value == pytest.approx(low + (high - low) * (at - math.floor(at)))
        edges = found.edges.tolist()
        assert edges[0] == 0
        assert edges[-1] == max(a)
        assert np.diff(edges) == pytest.approx([max(a) / 20] * 20)
        assert found.counts.tolist() == [sum(edges[b] < x <= edges[b + 1] for x in a) for b in range(20)]


@pytest.mark.parametrize("world", WORLDS)
def test_tokens_entropy_and_position(world):
    for feature in range(world.f_RF.shape[1]):
        found, rows = found_of(world, feature), stores.counted(world, feature)
        if not rows:
            assert math.isnan(found.entropy)
            assert np.isnan(found.by_position).all()
            continue
        total = math.fsum(a for _, a in rows)
        firings = Counter(int(world.id_R[t]) for t, _ in rows)
        mass = {i: math.fsum(a for t, a in rows if world.id_R[t] == i) for i in firings}
        expected = sorted(mass, key=lambda i: (-round(mass[i], 9), i))[:10]
        assert found.ids_K.tolist() == expected
        assert found.shares_K == pytest.approx([firings[i] / len(rows) for i in expected])
        assert found.means_K == pytest.approx([mass[i] / firings[i] for i in expected])
        assert found.masses_K == pytest.approx([mass[i] / total for i in expected])
        p = [n / len(rows) for n in firings.values()]
        assert found.entropy == pytest.approx(-math.fsum(x * math.log2(x) for x in p), abs=1e-12)
        assert found.top_share == pytest.approx(max(p))
        octiles = [math.fsum(a for t, a in rows if t % world.T * 8 // world.T == o) / total for o in range(8)]
        assert found.by_position == pytest.approx(octiles)


@pytest.mark.parametrize("world", WORLDS)
def test_shares_by_norm_are_over_every_token(world):
    R = len(world.norm_R)
    by_length = sorted(range(R), key=lambda t: (world.norm_R[t], t))
    place = np.empty(R, dtype=int)
    place[by_length] = np.arange(R)
    for feature in range(world.f_RF.shape[1]):
        found = found_of(world, feature)
        if feature == DEAD:
            assert np.isnan([*found.by_norm, found.long, found.first]).all()
            continue
        for i in range(10):
            inside = (place >= i * R // 10) & (place < (i + 1) * R // 10)
            assert found.by_norm[i] == pytest.approx(stores.share_where(world, feature, inside))
        top = place >= R - math.ceil(R / 100)
        assert found.long == pytest.approx(stores.share_where(world, feature, top))
        assert found.first == pytest.approx(stores.share_where(world, feature, np.arange(R) % world.T == 0))


def test_what_is_special_is_seen():
    world = WORLDS[0]
    assert found_of(world, DEAD).firings == 0
    assert found_of(world, ALWAYS).density == 1
    assert found_of(world, ONE_TOKEN).entropy == 0
    assert found_of(world, ONE_TOKEN).top_share == 1
    assert found_of(world, ONE_FIRING).std == 0
    assert found_of(world, MASKED_ONLY).firings == 0
    assert found_of(world, MASKED_ONLY).first > 0.5
    assert len({t // world.T for t, _ in stores.counted(world, ONE_SEQUENCE)}) == 1


def test_negative_values_count_by_their_size():
    world = WORLDS[0]
    flipped = stores.World(**{**vars(world), "f_RF": -world.f_RF})
    for feature in range(world.f_RF.shape[1]):
        for a, b in zip(found_of(world, feature), found_of(flipped, feature), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_value_on_an_edge_is_below_it():
    edges = bin_edges(4.0)
    assert bins(np.array([0.1, 0.2, 0.2000001, 4.0]), edges).tolist() == [0, 0, 1, 19]


def test_small_bars():
    assert spark(np.array([], dtype=int)) == [0] * 8
    counts = np.zeros(20, dtype=int)
    counts[0], counts[19] = 10_000, 1
    bars = spark(counts)
    assert len(bars) == 8
    assert bars[0] == 9
    assert bars[7] == 1
    assert not any(bars[1:7])
