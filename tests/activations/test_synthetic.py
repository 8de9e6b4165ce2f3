"""A synthetic world: its numbers by hand, its samples by what they have to be on average, and purity."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from unmix.activations.synthetic import HOOK, Samples, draw, mix
from unmix.activations.synthetic_world import (
    WorldConfig,
    compensation,
    make_world,
    normal_quantile,
    orthogonal,
    zipf,
)
from unmix.errors import UserError

TINY = WorldConfig(features=40, width=12, roots=4, branching=2, depth=2, rank=3, least_often=0.02, orthogonal_steps=5)
"""28 features in 4 trees, 12 that stand alone."""
SIGMAS = 5  # that a frequency may be off


def dense(world, tokens, seed=0):
    """a, (tokens, N)."""
    code = draw(world, tokens, np.random.default_rng(seed))
    a = np.zeros((tokens, world.config.features))
    a[np.repeat(np.arange(tokens), np.diff(code.starts_B1)), code.features_N] = code.values_N
    return a


def cdf(x):
    return torch.special.ndtr(torch.as_tensor(np.asarray(x, np.float64))).numpy()


def near(found, expected, tokens):
    """Frequencies over so many tokens."""
    expected = np.asarray(expected)
    assert np.all(np.abs(found - expected) <= SIGMAS * np.sqrt(expected * (1 - expected) / tokens) + 1e-12)


@pytest.fixture(scope="module")
def world():
    return make_world(TINY)


def test_the_trees_stand_first_and_breadth_first():
    assert (TINY.parents, TINY.in_trees) == (4 + 8, 4 + 8 + 16)
    full = WorldConfig()
    assert (full.parents, full.in_trees) == (128 * (1 + 4 + 16), 128 * (1 + 4 + 16 + 64))


def test_more_features_in_trees_than_there_are_is_refused():
    with pytest.raises(UserError, match="5 trees of depth 2 have 35 features, and there are 34; give fewer roots"):
        make_world(replace(TINY, roots=5, features=34))


def test_rates_fall_as_zipf_says():
    q = zipf(WorldConfig(features=4, roots=1, depth=0, exponent=0.5, most_often=0.4, least_often=0.1))
    # 1, 1/√2, 1/√3, 1/2 brought to 0.4 … 0.1
    assert q == pytest.approx([0.4, 0.1 + 0.6 * (2**-0.5 - 0.5), 0.1 + 0.6 * (3**-0.5 - 0.5), 0.1])


def test_compensation_by_hand():
    config = WorldConfig(features=4, roots=1, branching=2, depth=1)
    q = np.array([0.5, 0.2, 0.1, 0.05])
    assert compensation(config, q) == pytest.approx([1, (1 + 0.1 / 0.5) / 0.5, (1 + 0.2 / 0.5) / 0.5, 1])


def test_a_world_is_what_its_configuration_says(world):
    assert world.directions_ND.norm(dim=1) == pytest.approx(torch.ones(40))
    assert world.bias_D.norm().item() == pytest.approx(0.5)
    assert world.strength_N == pytest.approx(np.linspace(5, 4, 40))
    assert world.probability_N == pytest.approx(np.minimum(1, world.rate_N * compensation(TINY, world.rate_N)))
    assert (world.spread_N >= 0).all()
    shared = np.square(world.factor_NR).sum(1)
    assert world.cut_N == pytest.approx(normal_quantile(world.probability_N) * np.sqrt(1 + shared), abs=1e-5)
    other = make_world(replace(TINY, seed=1))
    assert not torch.equal(world.directions_ND, other.directions_ND)
    assert not np.array_equal(world.spread_N, other.spread_N)


def test_spread_and_correlations_have_their_moments():
    many = make_world(WorldConfig(features=20_000, width=2, roots=1, depth=0, orthogonal_steps=0))
    normal = np.abs(np.random.default_rng(0).standard_normal(10**6) / 2 + 0.5)
    assert many.spread_N.mean() == pytest.approx(normal.mean(), rel=0.02)
    assert many.spread_N.std() == pytest.approx(normal.std(), rel=0.02)
    factor = many.factor_NR.astype(np.float64)
    L = factor / np.sqrt(1 + np.square(factor).sum(1, keepdims=True))
    assert L.std() == pytest.approx(0.1, rel=0.01)


def test_directions_are_pushed_apart_as_by_autograd():
    start = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    d = (start / start.norm(dim=1, keepdim=True)).requires_grad_()
    adam = torch.optim.Adam([d], 0.01)
    for _ in range(20):
        adam.zero_grad()
        products = d @ d.T
        off = products - torch.diag(products.diagonal())
        (off.square().sum() + 30 * (products.diagonal() - 1).square().sum()).backward()
        adam.step()
    expected = (d / d.norm(dim=1, keepdim=True)).detach()
    assert orthogonal(start, 20, 0.01) == pytest.approx(expected, abs=1e-5)
    assert (expected @ expected.T).square().sum() < (orthogonal(start, 0, 0.01) @ start.T).square().sum()


def test_an_entry_is_positive_and_tokens_have_theirs_in_order(world):
    code = draw(world, 700, np.random.default_rng(0))
    assert (code.values_N > 0).all()
    assert code.starts_B1[0] == 0
    assert code.starts_B1[-1] == len(code.features_N) == len(code.values_N)
    for t in range(700):
        assert (np.diff(code.features_N[code.starts_B1[t] : code.starts_B1[t + 1]]) > 0).all()


def test_no_child_without_its_parent_and_no_two_siblings(world):
    on = dense(world, 4000) > 0
    for parent in range(TINY.parents):
        children = on[:, TINY.roots + 2 * parent : TINY.roots + 2 * parent + 2]
        assert not (children.any(1) & ~on[:, parent]).any()
        assert not children.all(1).any()
    assert on[:, TINY.parents : TINY.in_trees].sum() > 100


def test_roots_and_features_that_stand_alone_have_their_probabilities(world):
    tokens = 40_000
    on = (dense(world, tokens) > 0).mean(0)
    # where it is on, its strength may be cut to 0
    expected = world.probability_N * cdf(world.strength_N / np.maximum(world.spread_N, 1e-9))
    for each in (slice(0, TINY.roots), slice(TINY.in_trees, None)):
        near(on[each], expected[each], tokens)


@pytest.mark.parametrize("p", [0.0007, 0.5])
def test_a_probability_is_met_beyond_the_first_random_byte(p):
    config = WorldConfig(features=2000, width=2, roots=1, depth=0, scale=0.0, spread=0.0, orthogonal_steps=0)
    made = make_world(replace(config, most_often=p, least_often=p))
    found = len(draw(made, 2000, np.random.default_rng(0)).features_N) / 2000**2
    near(np.array(found), p, 2000**2)


def test_children_have_the_probabilities_of_a_draw_among_siblings():
    config = replace(TINY, scale=0.0, branching=3, roots=2, depth=1, features=8)
    made = replace(make_world(config), spread_N=np.zeros(8, np.float32))
    tokens, p = 40_000, made.probability_N
    on = (dense(made, tokens) > 0).mean(0)
    for root in range(2):
        children = range(2 + 3 * root, 5 + 3 * root)
        chance = dict.fromkeys(children, 0.0)
        for pattern in product((0, 1), repeat=3):  # who is on, before one is drawn
            share = np.prod([p[c] if bit else 1 - p[c] for c, bit in zip(children, pattern, strict=True)])
            for c, bit in zip(children, pattern, strict=True):
                chance[c] += p[root] * share * bit / max(1, sum(pattern))
        near(on[list(children)], list(chance.values()), tokens)


def test_a_probability_of_1_is_on_whenever_its_parent_is():
    config = WorldConfig(features=2, width=2, roots=1, branching=1, depth=1, most_often=0.4, least_often=0.4)
    on = dense(make_world(replace(config, spread=0.0)), 2000) > 0
    assert np.array_equal(on[:, 0], on[:, 1])
    assert 0.3 < on[:, 0].mean() < 0.5


def test_features_hang_together_as_their_factors_say():
    config = WorldConfig(features=6, width=4, roots=1, depth=0, rank=1, scale=0.8, most_often=0.3, least_often=0.1)
    made = make_world(replace(config, seed=3, spread=0.0))
    tokens = 40_000
    on = dense(made, tokens) > 0
    eps = np.linspace(-8, 8, 4001)
    weight = np.exp(-(eps**2) / 2)
    given = cdf(np.outer(eps, made.factor_NR[:, 0]) + made.cut_N)  # P(on | ε)
    both = (given[:, :, None] * given[:, None, :] * weight[:, None, None]).sum(0) / weight.sum()
    found = on.T.astype(float) @ on / tokens
    apart = ~np.eye(6, dtype=bool)
    near(found[apart], both[apart], tokens)
    alone = np.outer(made.probability_N, made.probability_N)
    assert (np.abs(both - alone)[apart] > 2 * SIGMAS * np.sqrt(alone[apart] / tokens)).any()  # it matters here


def test_a_child_is_as_strong_as_its_parent_was_above_its_mean(world):
    only_roots_vary = np.where(np.arange(40) < TINY.roots, world.spread_N + 0.1, 0).astype(np.float32)
    a = dense(replace(world, spread_N=only_roots_vary), 2000) / world.strength_N
    for child in range(TINY.roots, TINY.in_trees):
        on = a[:, child] > 0
        parent = (child - TINY.roots) // 2
        assert a[on, child] == pytest.approx(a[on, parent], rel=1e-5)
    assert a[:, : TINY.roots][a[:, : TINY.roots] > 0].std() > 0.01


def test_strengths_have_their_mean_and_spread(world):
    a = dense(world, 40_000)
    for i in range(TINY.in_trees, 40):
        if world.spread_N[i] < world.strength_N[i] / 4:  # else what is cut off at 0 counts
            strengths = a[a[:, i] > 0, i]
            error = world.spread_N[i] / np.sqrt(len(strengths))
            assert strengths.mean() == pytest.approx(world.strength_N[i], abs=SIGMAS * error)
            assert strengths.std() == pytest.approx(world.spread_N[i], rel=SIGMAS / np.sqrt(len(strengths)))


def test_x_is_the_sum_of_its_features(world):
    code = draw(world, 300, np.random.default_rng(4))
    a = torch.zeros(300, 40)
    for t in range(300):
        at = slice(code.starts_B1[t], code.starts_B1[t + 1])
        a[t, code.features_N[at]] = torch.from_numpy(code.values_N[at])
    assert mix(world, code) == pytest.approx(a @ world.directions_ND + world.bias_D, abs=1e-5)


def test_batch_s_is_a_function_of_seed_split_and_s(world):
    def of(seed=0, split="train"):
        return Samples(world, batch_tokens=300, seed=seed, split=split)

    source = of()
    late = source.truth(7)
    source.truth(2)
    for again in (source.truth(7), of().truth(7), Samples(make_world(TINY), batch_tokens=300, seed=0).truth(7)):
        assert torch.equal(again[0], late[0])
        assert all(np.array_equal(a, b) for a, b in zip(again[1], late[1], strict=True))
    for other in (source.truth(8), of(seed=1).truth(7), of(split="fit").truth(7), of(split="held_out").truth(7)):
        assert not torch.equal(other[0], late[0])


def test_no_bit_depends_on_the_number_of_threads():
    config = WorldConfig(features=2048, width=64, roots=16, orthogonal_steps=2)
    threads, made = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            wide = make_world(config)
            made.append((wide.directions_ND, Samples(wide, batch_tokens=1024, seed=0).truth(0)[0]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


def test_sums_of_factors_are_exact_in_any_order():
    """So that no product of matrices, on any number of threads, rounds them otherwise."""
    made = make_world(replace(WorldConfig(), features=12_000, width=2, orthogonal_steps=0))
    eps = np.random.default_rng(0).standard_normal((64, 25), np.float32)
    eps = np.round(eps * np.float32(512)) / np.float32(512)
    exact = eps.astype(np.float64) @ made.factor_NR.T.astype(np.float64)
    order = np.random.default_rng(1).permutation(25)
    for way in (np.arange(25), order):
        assert np.array_equal(eps[:, way] @ made.factor_NR[:, way].T, exact)


def test_it_is_a_source_of_batches(world):
    source = Samples(world, batch_tokens=100, seed=0)
    assert (source.widths, source.batch_tokens, source.chunk_tokens) == ({HOOK: 12}, 100, 100)
    batches = list(source.batches(3, 5))
    assert [torch.equal(b.activations[HOOK], source.truth(s)[0]) for s, b in zip((3, 4), batches, strict=True)] == [
        True, True
    ]  # fmt: skip
    head = source.head()
    assert head.activations[HOOK].shape == (8192, 12)
    assert len(head.token_ids_B) == len(head.positions_B) == 8192
    assert torch.equal(head.activations[HOOK][100:200], source.truth(1)[0])
    assert source.size > 10**12
