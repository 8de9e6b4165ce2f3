"""Texts token by token: which are kept, and that bytes give back what was put."""

import numpy as np
import pytest
from explore.stores import ALWAYS, MEMBER, make_world, write_store

from unmix.explore import token_pages
from unmix.explore.pack import of_planes, planes
from unmix.explore.texts import SiteText, text_pages
from unmix.explore.token_pages import read_tokens, real, unreal


def strongest(world, t, most):
    """The twin: {feature: value} of the largest, of equal ones the lowest feature."""
    active = sorted(np.flatnonzero(world.f_RF[t]).tolist(), key=lambda i: (-world.f_RF[t, i], i))
    return {i: world.f_RF[t, i] for i in active[:most]}, len(active[most:])


@pytest.mark.parametrize(("most", "shard_sequences", "parts"), [(64, 40, 1), (3, 7, 1), (2, 7, 3)])
def test_the_strongest_of_each_token_are_the_twins(tmp_path, monkeypatch, most, shard_sequences, parts):
    monkeypatch.setattr("unmix.explore.store.RANGE_TOKENS", 100)  # 8 sequences, which no shard begins with
    world = make_world(0)
    store = write_store(world, tmp_path, shard_sequences, parts)
    wanted = list(range(40)) if most == 64 else [0, 3, 9, 10, 21, *range(25, 40)]
    pages = dict(token_pages.token_pages(store, MEMBER, world.text, wanted, most))
    assert list(pages) == [f"{MEMBER}/t/{n:05d}" for n in range(-(-len(wanted) // 16))]
    found = [row for page in pages.values() for row in read_tokens(page, world.T)]
    assert len(found) == len(wanted)
    for s, row in zip(wanted, found, strict=True):
        for t in range(world.T):
            features, left = strongest(world, s * world.T + t, most)
            assert dict(row["f"][t]) == pytest.approx(features, rel=5e-4)
            assert row["more"][t] == left
            assert (t in row["m"]) == world.masked_R[s * world.T + t]
    assert any(ALWAYS in dict(pairs) for row in found for pairs in row["f"])


def test_values_that_are_no_numbers_are_the_weakest_and_move_no_others(tmp_path):
    """A model in float16 may overflow on a token; the other tokens of its page are what they are."""
    world = make_world(0)
    world.f_RF[5, [2, 4, 6, 8]] = np.nan
    world.f_RF[5, 1], world.f_RF[5, 3] = np.inf, 7.0
    store = write_store(world, tmp_path, 40)
    [page] = [page for _, page in token_pages.token_pages(store, MEMBER, world.text, range(16), 3)]
    for s, row in enumerate(read_tokens(page, world.T)):
        for t in set(range(world.T)) - ({5} if s == 0 else set()):
            assert dict(row["f"][t]) == pytest.approx(strongest(world, s * world.T + t, 3)[0], rel=5e-4)
        if s == 0:
            assert {1, 3} < dict(row["f"][5]).keys()
            assert (len(row["f"][5]), row["more"][5]) == (3, np.count_nonzero(world.f_RF[5]) - 3)
    world.f_RF[5] = np.nan
    store = write_store(world, tmp_path / "all", 40)
    [page] = [page for _, page in token_pages.token_pages(store, MEMBER, world.text, range(16), 3)]
    assert [len(token) for token in read_tokens(page, world.T)[0]["f"]][5:7] == [
        3,
        min(3, np.count_nonzero(world.f_RF[6])),
    ]


def test_a_real_number_keeps_four_digits():
    x = np.array([1.0, -1.0, 0.1, 3.14159, 1e-30, 6.5e20, 0.0, 2.0 - 2**-20, np.inf], dtype=np.float32)
    assert unreal(real(x)) == pytest.approx(x, rel=4.9e-4)
    assert unreal(real(x))[7] == 2.0
    assert np.isnan(unreal(real(np.array([np.nan]))))[0]


def test_planes_give_back_the_numbers():
    numbers = np.array([0, 1, 255, 256, 65_535, 2**24 - 1])
    assert planes(np.array([1, 0x0203]), 2) == bytes([1, 3, 0, 2])
    assert of_planes(b"xx" + planes(numbers, 3), 2, 6, 3).tolist() == numbers.tolist()
    with pytest.raises(ValueError, match="missing"):
        of_planes(b"123", 0, 2, 2)


def test_the_text_of_a_site_is_read_across_its_pages(tmp_path, monkeypatch):
    from unmix.explore.pack import script_of_bytes

    monkeypatch.setattr("unmix.explore.texts.PAGE", 7)
    ids = np.arange(20) * 5000
    (tmp_path / "text").mkdir()
    for key, data in text_pages(ids):
        (tmp_path / f"{key}.js").write_bytes(script_of_bytes(key, data))
    assert len(list((tmp_path / "text").iterdir())) == 3
    record = {"groups": {"top": [{"s": 1, "p": 4, "n": 6}], "value": [{"windows": [{"s": 0, "p": 0, "n": 2}]}]}}
    SiteText(tmp_path, 10).fill(record)
    assert record["groups"]["top"][0]["ids"] == (np.arange(14, 20) * 5000).tolist()
    assert record["groups"]["value"][0]["windows"][0]["ids"] == [0, 5000]
    with pytest.raises(ValueError, match="the text ends before the example at 1, 8"):
        SiteText(tmp_path, 10).fill({"groups": {"near": [{"s": 1, "p": 8, "n": 3}]}})
    with pytest.raises(FileNotFoundError, match="has no pages"):
        SiteText(tmp_path / "none", 10).fill({"groups": {"near": [{"s": 1, "p": 8, "n": 3}]}})
