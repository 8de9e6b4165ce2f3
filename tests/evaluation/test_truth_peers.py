"""The benchmark against SAELens' own: the same metrics from the same arrays, the same statistics from either sampler.

benchmarks/.venv/bin/python -m pytest -m peers tests/evaluation
"""

import numpy as np
import pytest
import torch

from unmix.activations.synthetic import draw, mix
from unmix.activations.synthetic_world import WorldConfig, compensation, make_world, orthogonal, zipf
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import JumpRelu
from unmix.evaluation.readout import linear_readout
from unmix.evaluation.truth import judge, likenesses, mcc
from unmix.kernels.find import Code

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
CONFIG = WorldConfig(features=512, width=64, roots=8, branching=3, depth=2, rank=10, least_often=0.01)
"""104 features in trees, 408 alone."""
TOKENS = 60_000
SIGMAS = 5.5  # hundreds of numbers are compared


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("sae_lens.synthetic")


@pytest.fixture(scope="module")
def world():
    return make_world(CONFIG)


@pytest.fixture(scope="module")
def model(theirs, world):
    """Their model of the same configuration, with what is random taken from our world."""
    their_config = theirs.SyntheticModelConfig(
        num_features=CONFIG.features,
        hidden_dim=CONFIG.width,
        firing_probability=theirs.ZipfianFiringProbabilityConfig(
            exponent=CONFIG.exponent, max_prob=CONFIG.most_often, min_prob=CONFIG.least_often
        ),
        hierarchy=theirs.HierarchyConfig(
            total_root_nodes=CONFIG.roots,
            branching_factor=CONFIG.branching,
            max_depth=CONFIG.depth,
            mutually_exclusive_portion=1.0,
            mutually_exclusive_min_depth=0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        mean_firing_magnitudes=theirs.LinearMagnitudeConfig(*CONFIG.strengths),
        std_firing_magnitudes=theirs.FoldedNormalMagnitudeConfig(mean=CONFIG.spread, std=CONFIG.spread),
        correlation=theirs.LowRankCorrelationConfig(rank=CONFIG.rank, correlation_scale=CONFIG.scale),
        orthogonalization=theirs.OrthogonalizationConfig(num_steps=2, lr=3e-4),
        bias=CONFIG.bias_norm,
        seed=42,
    )
    made = theirs.SyntheticModel(their_config)
    generator, factor = made.activation_generator, torch.from_numpy(world.factor_NR)
    own = 1 / (1 + factor.square().sum(1)).sqrt()
    generator.low_rank_correlation = (factor * own[:, None], own)
    generator.std_firing_magnitudes = torch.from_numpy(world.spread_N)
    made.feature_dict.feature_vectors.data = world.directions_ND.clone()
    made.feature_dict.bias.data = world.bias_D.clone()
    return made


@pytest.fixture(scope="module")
def both(world, model):
    """(a, x) of either, TOKENS tokens."""
    torch.manual_seed(0)
    code = draw(world, TOKENS, np.random.default_rng(0))
    ours = torch.zeros(TOKENS, CONFIG.features)
    ours[np.repeat(np.arange(TOKENS), np.diff(code.starts_B1)), code.features_N] = torch.from_numpy(code.values_N)
    x, a = model.sample_with_features(TOKENS)
    return (ours, mix(world, code)), (a, x)


def as_code(a_BN):
    token, feature = a_BN.nonzero(as_tuple=True)
    starts = np.concatenate([[0], np.cumsum((a_BN > 0).sum(1).numpy())])
    return Code(starts, feature.numpy(), a_BN[token, feature].numpy())


def same_frequencies(one, other, tokens=TOKENS):
    """Two samples of the same probabilities."""
    p = (one + other) / 2
    assert ((one - other).abs() <= SIGMAS * (2 * p * (1 - p) / tokens).sqrt() + 1e-12).all()


class TestDefinition:
    """What is not random is the same number for number."""

    def test_rates(self, theirs, world):
        expected = theirs.zipfian_firing_probabilities(512, 0.5, CONFIG.most_often, CONFIG.least_often)
        assert torch.from_numpy(zipf(CONFIG)) == pytest.approx(expected, rel=1e-5)

    def test_trees(self, model):
        def walk(node):
            for i, child in enumerate(node.children):
                assert child.feature_index == CONFIG.roots + CONFIG.branching * node.feature_index + i
                walk(child)

        assert [root.feature_index for root in model.hierarchy.roots] == list(range(CONFIG.roots))
        for root in model.hierarchy.roots:
            walk(root)
        assert len(model.hierarchy.feature_indices_used) == CONFIG.in_trees

    def test_compensation_and_probabilities(self, model, world):
        q = torch.from_numpy(world.rate_N).float()
        expected = model.hierarchy.compute_probability_correction_factors(q)
        assert torch.from_numpy(compensation(CONFIG, world.rate_N)) == pytest.approx(expected, rel=1e-4)
        got = torch.from_numpy(world.probability_N)
        assert got == pytest.approx(model.activation_generator.firing_probabilities, rel=1e-4)
        assert 0 < (got == 1).sum() < 300  # some are cut off there

    def test_strengths(self, model, world):
        assert torch.from_numpy(world.strength_N) == pytest.approx(model.activation_generator.mean_firing_magnitudes)

    def test_directions_pushed_apart(self, theirs):
        start = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        expected = theirs.orthogonalize_embeddings(start, num_steps=50, lr=3e-3, chunk_size=64)
        assert orthogonal(start, 50, 3e-3) == pytest.approx(expected, abs=2e-4)
        assert not torch.allclose(expected, orthogonal(start, 0, 1.0), atol=0.02)  # something happens


class TestSamples:
    """What is random has the same statistics, within what so many tokens can tell."""

    def test_how_often(self, both):
        (a, _), (b, _) = both
        same_frequencies((a > 0).double().mean(0), (b > 0).double().mean(0))
        l0, their_l0 = ((each > 0).sum(1).double() for each in (a, b))
        error = (l0.var() + their_l0.var()).div(TOKENS).sqrt()
        assert (l0.mean() - their_l0.mean()).abs() < SIGMAS * error
        assert l0.std() == pytest.approx(their_l0.std().item(), rel=0.03)

    def test_which_together(self, both):
        together = [(on[:, :160].T @ on[:, :160] / TOKENS) for a, _ in both for on in [(a > 0).float()]]
        same_frequencies(*(each.double() for each in together))

    def test_siblings_and_parents(self, both):
        for a, _ in both:
            on = a > 0
            for parent in range(CONFIG.parents):
                first = CONFIG.roots + CONFIG.branching * parent
                children = on[:, first : first + CONFIG.branching]
                assert not (children.any(1) & ~on[:, parent]).any()
                assert children.sum(1).max() <= 1

    def test_how_strongly(self, both):
        for i in [*range(0, CONFIG.in_trees, 5), *range(CONFIG.in_trees, CONFIG.features, 40)]:
            one, other = (a[:, i][a[:, i] > 0].double() for a, _ in both)
            error = (one.var() / len(one) + other.var() / len(other)).sqrt()
            assert (one.mean() - other.mean()).abs() < SIGMAS * error + 1e-6
            if min(len(one), len(other)) > 2000:
                assert one.std().item() == pytest.approx(other.std().item(), rel=0.15, abs=1e-4)

    def test_children_scale_with_their_parents(self, both):
        slopes = []
        for a, _ in both:
            parent, child = a[:, 0], a[:, CONFIG.roots]
            ratio = parent[child > 0] / CONFIG.strengths[0], child[child > 0]
            slopes.append((ratio[0] @ ratio[1] / (ratio[0] @ ratio[0])).item())
        assert slopes[0] == pytest.approx(slopes[1], rel=0.02)

    def test_activations(self, both):
        (_, x), (_, y) = both
        square, their_square = (each.double().square().sum(1) for each in (x, y))
        error = (square.var() + their_square.var()).div(TOKENS).sqrt()
        assert (square.mean() - their_square.mean()).abs() < SIGMAS * error
        error_D = ((x.double().var(0) + y.double().var(0)) / TOKENS).sqrt()
        assert ((x.double().mean(0) - y.double().mean(0)).abs() < SIGMAS * error_D).all()
        covariances = [torch.cov(each.double().T) for each in (x, y)]
        assert (covariances[0] - covariances[1]).norm() < 0.05 * covariances[1].norm()

    def test_a_dictionary_scores_alike(self, both, world):
        ours, others = (((x, as_code(a)),) for a, x in both)
        sae = linear_readout(world.directions_ND, 128, lambda: ours)
        one, other = (judge({"it": sae}, world.directions_ND, each)["it"] for each in (ours, others))
        assert one.f1 == pytest.approx(other.f1, abs=0.01)
        assert one.l0 == pytest.approx(other.l0, rel=0.01)
        assert one.explained_variance == pytest.approx(other.explained_variance, abs=0.005)
        assert one.f1 > 0.5


class OneBatchAfterAnother:
    """Stands in for their generator: the given features, in order."""

    def __init__(self, a_BN):
        self.left = a_BN

    def sample(self, tokens):
        now, self.left = self.left[:tokens], self.left[tokens:]
        return now


def dictionary(world, kind):
    """Dictionaries of different quality, some features of them dead, doubled or of another sign."""
    g = torch.Generator().manual_seed(1)
    rows = world.directions_ND[torch.randperm(CONFIG.features, generator=g)[:96]].clone()
    if kind == "noisy":
        rows += 0.1 * torch.randn(rows.shape, generator=g)
    if kind == "random":
        rows = torch.randn(rows.shape, generator=g)
    rows[10:14] = rows[20:24] * 1.5
    rows[30:32] *= -1
    theta = torch.full((96,), 2.0)
    theta[50:55] = 1e9
    weights = {"W_enc": rows.T.clone(), "b_enc": torch.zeros(96), "W_dec": rows, "b_dec": world.bias_D}
    return Dictionary(weights | {"threshold": theta}, JumpRelu())


@pytest.mark.parametrize("kind", ["exact", "noisy", "random"])
def test_scores_are_equal(theirs, world, model, both, kind):
    a, x = both[0]
    a, x = a[:20_000], x[:20_000]
    sae = dictionary(world, kind)
    ours = judge(
        {"it": sae}, world.directions_ND, [(x[i : i + 700], as_code(a[i : i + 700])) for i in range(0, 20_000, 700)]
    )["it"]
    got = theirs.eval_sae_on_synthetic_data(
        sae, model.feature_dict, OneBatchAfterAnother(a), num_samples=20_000, batch_size=1024
    )
    assert ours.f1 == pytest.approx(got.classification.f1_score, abs=1e-6)
    assert ours.precision == pytest.approx(got.classification.precision, abs=1e-6)
    assert ours.recall == pytest.approx(got.classification.recall, abs=1e-6)
    assert ours.mcc == pytest.approx(got.mcc, abs=1e-6)
    assert ours.uniqueness == pytest.approx(got.uniqueness, abs=1e-9)
    assert ours.explained_variance == pytest.approx(got.explained_variance, rel=1e-5, abs=1e-5)
    assert ours.l0 == pytest.approx(got.sae_l0, rel=1e-4)
    assert ours.true_l0 == pytest.approx(got.true_l0, rel=1e-6)
    assert round(ours.dead * 96) == got.dead_latents
    assert ours.shrinkage == pytest.approx(got.shrinkage, rel=1e-4)
    assert ours.tokens == 20_000


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (50, 50)])
def test_pairings_are_equally_good(theirs, shape):
    g = torch.Generator().manual_seed(0)
    one, other = torch.randn(shape[0], 12, generator=g), torch.randn(shape[1], 12, generator=g)
    assert mcc(likenesses(one, other)) == pytest.approx(theirs.mean_correlation_coefficient(one, other), abs=1e-6)
