"""Which tokens stand for a feature: the slow twin's; drawn uniformly; no order of shards matters."""

import numpy as np
import pytest
from explore import stores
from explore.stores import ALWAYS, DEAD, MEMBER, ONE_TOKEN, make_world, write_store

from unmix.explore import examples, windows
from unmix.explore.draw import hashes, mix
from unmix.explore.feature import lengths, numbers
from unmix.explore.store import Text, extents

WORLDS = [make_world(0), make_world(1, sequences=1, T=40), make_world(2, sequences=90, T=5, features=9)]


def chosen(world, feature):
    text = world.text
    entries = world.entries(feature)
    found = numbers(*entries, text, lengths(text.norm_R), text.counted)
    top_id = int(found.ids_K[0]) if len(found.ids_K) else -1
    return found, examples.choose(feature, *entries, text, examples.places(text), found.edges, top_id)


@pytest.mark.parametrize("world", WORLDS)
def test_top_uniform_and_bands_are_the_twins(world):
    for feature in range(world.f_RF.shape[1]):
        found, got = chosen(world, feature)
        rows = stores.counted(world, feature)
        assert got.top.tolist() == stores.top(world, feature)
        assert got.uniform.tolist() == stores.drawn(feature, [t for t, _ in rows])[:10]
        if not rows:
            assert got.value == got.mass == []
            continue
        value_edges = found.edges[::4].tolist()
        cuts = [stores.mass_cut(world, feature, b / 5) for b in range(1, 5)]
        mass_edges = [0.0, *cuts, max(a for _, a in rows)]
        for bands, edges, most in ((got.value, value_edges, 4), (got.mass, mass_edges, 2)):
            assert [band.low for band in bands] == edges[:-1]
            assert [band.high for band in bands] == edges[1:]
            for b, band in enumerate(bands):
                firings, mass, peaks = stores.band(world, feature, edges, b)
                assert band.firings == pytest.approx(firings)
                assert band.mass == pytest.approx(mass)
                assert band.peaks.tolist() == peaks[:most]
            assert sum(band.firings for band in bands) == pytest.approx(1)


@pytest.mark.parametrize("world", WORLDS)
def test_near_misses_and_silent_windows(world):
    R = len(world.id_R)
    hash_R = {t: int(hashes(0, t)[0]) for t in range(R)}
    drawn = sorted(np.flatnonzero(~world.masked_R).tolist(), key=lambda t: hash_R[t])
    for feature in range(world.f_RF.shape[1]):
        found, got = chosen(world, feature)
        silent_R = world.f_RF[:, feature] == 0
        if not found.firings:
            assert len(got.near) == 0
        else:
            top_id = found.ids_K[0]
            assert got.near.tolist() == [t for t in drawn if silent_R[t] and world.id_R[t] == top_id][:4]
        begin = int(hashes(0, feature)[0]) % len(drawn)
        tried = [drawn[(begin + n) % len(drawn)] for n in range(min(len(drawn), examples.TRIED))]
        bounds = {t: stores.window(world, t, windows.BEFORE, windows.AFTER) for t in tried}
        assert got.silent.tolist() == [t for t in tried if silent_R[bounds[t][0] : bounds[t][1] + 1].all()][:2]
    assert len(chosen(world, ALWAYS)[1].silent) == 0


def test_a_cut_is_where_the_share_is_reached():
    """Σ = 5: the value 1 holds exactly a fifth of it, and the two 2s are in one band, whichever share they reach."""
    assert examples.mass_edges(np.array([2.0, 1.0, 2.0])).tolist() == [0, 1, 2, 2, 2, 2]
    assert examples.mass_edges(np.array([3.0])).tolist() == [0, 3, 3, 3, 3, 3]


def test_the_hash_is_splitmix64():
    """The first outputs of the generator from seed 0, whose state grows by a constant."""
    states = np.array([0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(states).tolist() == expected
    assert hashes(0, 5, np.array([7]))[0] == mix(mix(mix(states[:1]) ^ np.uint64(5)) ^ np.uint64(7))[0]


def test_more_pages_go_on_where_the_first_ends():
    world, feature = WORLDS[0], ALWAYS
    text, (token_n, act_n) = world.text, world.entries(feature)
    everything = examples.top(token_n, act_n, text)
    assert everything[:20].tolist() == stores.top(world, feature)
    assert len(everything) == len({t // world.T for t, _ in stores.counted(world, feature)})
    drawn = examples.uniform(feature, token_n, text)
    assert drawn.tolist() == stores.drawn(feature, [t for t, _ in stores.counted(world, feature)])


def test_firings_are_drawn_uniformly():
    """χ² over which of 20 firings are among the 10 drawn, for 4,000 features: 19 degrees of freedom, 45 is p = 0.0007.

    Σ (k - n/2)² / (n/4) · 19/20 is χ²-distributed for draws of half of them without replacement."""
    firings, features = 20, 4000
    token_n = np.arange(1, 1 + firings) * 7
    R = 200
    first_R, last_R = extents(np.zeros(R), R)
    ones_R = np.ones(R, dtype=np.float32)
    text = Text(R, np.ones(R, dtype=int), first_R, last_R, ones_R, ones_R, np.ones(R, dtype=bool))
    count = np.zeros(firings)
    for feature in range(features):
        count[np.searchsorted(token_n, examples.uniform(feature, token_n, text)[:10])] += 1
    chi = (((count - features / 2) ** 2) / (features / 4)).sum() * (firings - 1) / firings
    assert 4 < chi < 45
    seeds = np.zeros(firings)
    for seed in range(features):
        seeds[np.searchsorted(token_n, examples.uniform(3, token_n, text, seed)[:10])] += 1
    assert 4 < (((seeds - features / 2) ** 2) / (features / 4)).sum() * (firings - 1) / firings < 45


def test_pairs_are_drawn_together_as_often_as_others():
    """What is drawn first says nothing of what is drawn second: χ² over the 90 ordered pairs of 10 firings."""
    token_n, R, draws = np.arange(10) * 3, 40, 9000
    first_R, last_R = extents(np.zeros(R), R)
    ones_R = np.ones(R, dtype=np.float32)
    text = Text(R, np.ones(R, dtype=int), first_R, last_R, ones_R, ones_R, np.ones(R, dtype=bool))
    count = np.zeros((10, 10))
    for feature in range(draws):
        a, b = examples.uniform(feature, token_n, text)[:2] // 3
        count[a, b] += 1
    off = ~np.eye(10, dtype=bool)
    assert not count[~off].any()
    assert 50 < (((count[off] - draws / 90) ** 2) / (draws / 90)).sum() < 145  # 89 degrees: p = 0.9997, 0.0001


@pytest.mark.parametrize(
    ("shard_sequences", "parts", "order"), [(40, 1, None), (7, 1, None), (7, 3, [5, 0, 3, 1, 2, 4])]
)
def test_neither_shards_nor_their_order_change_anything(tmp_path, shard_sequences, parts, order, monkeypatch):
    from unmix.explore import store as module

    world = WORLDS[0]
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 100)
    store = write_store(world, tmp_path, shard_sequences, parts, order)
    text, expected = store.text(stores.HOOK), world.text
    for a, b in zip(text, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    seen = 0
    for block in store.blocks(MEMBER):
        for feature in range(block.first, block.first + len(block.starts_f1) - 1):
            for a, b in zip(block.of(feature), world.entries(feature), strict=True):
                np.testing.assert_array_equal(a, b)
            seen += 1
    assert seen == world.f_RF.shape[1]
    err_R, l0_R = store.errors(MEMBER)
    np.testing.assert_array_equal(l0_R, np.count_nonzero(world.f_RF, axis=1))
    np.testing.assert_array_equal(err_R, expected.deviation_R / 3)


@pytest.mark.parametrize("feature", [DEAD, ALWAYS, ONE_TOKEN, 8])
def test_a_window_is_the_text_around_its_peak(feature):
    world = WORLDS[0]
    text, entries = world.text, world.entries(feature)
    peaks = np.arange(0, len(world.id_R), 5)
    for peak, got in zip(peaks, windows.windows(peaks, *entries, text), strict=True):
        first, last = stores.window(world, peak, windows.BEFORE, windows.AFTER)
        assert got["s"] * world.T + got["p"] == first
        assert first + got["c"] == peak
        assert got["n"] == last - first + 1
        active = [t for t in range(first, last + 1) if world.f_RF[t, feature]]
        assert [offset for offset, _ in got["v"]] == [t - first for t in active]
        assert [value for _, value in got["v"]] == [float(f"{world.f_RF[t, feature]:.4g}") for t in active]
        assert got["m"] == [t - first for t in range(first, last + 1) if world.masked_R[t]]
        assert len({int(d) for d in world.document_R[first : last + 1]}) == 1
        assert windows.with_ids([got], text)[0]["ids"] == world.id_R[first : last + 1].tolist()
        assert len(got["ids"]) <= 37
