"""What a dictionary has found of a known truth: dictionaries whose answers are plain."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmix.activations.synthetic import Samples
from unmix.activations.synthetic_world import WorldConfig, make_world
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import JumpRelu
from unmix.evaluation.readout import linear_readout, untrained
from unmix.evaluation.truth import Detection, judge, likenesses, mcc, uniqueness
from unmix.kernels.find import Code

N, D, B = 6, 8, 400


def as_code(a_BN):
    token, feature = a_BN.nonzero(as_tuple=True)
    starts = np.concatenate([[0], np.cumsum((a_BN > 0).sum(1).numpy())])
    return Code(starts, feature.numpy(), a_BN[token, feature].numpy())


@pytest.fixture
def directions():
    """Six of the axes of a turned space: orthogonal, of length 1."""
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0))).Q[:N]


@pytest.fixture
def samples(directions):
    g = torch.Generator().manual_seed(1)
    a_BN = torch.rand(B, N, generator=g).add(0.5) * (torch.rand(B, N, generator=g) < 0.3)
    return [(a_BN @ directions, as_code(a_BN))]


def of(rows, encoder=None, b_enc=0.0, theta=0.01):
    """f = x · encoder where above θ; the encoder is the decoder if not given."""
    F = len(rows)
    weights = {
        "W_enc": (rows if encoder is None else encoder).T.clone(),
        "b_enc": torch.full((F,), b_enc),
        "W_dec": rows.clone(),
        "b_dec": torch.zeros(D),
        "threshold": torch.full((F,), theta),
    }
    return Dictionary(weights, JumpRelu())


def scores(sae, directions, samples):
    return judge({"it": sae}, directions, samples)["it"]


def test_the_truth_itself_scores_1(directions, samples):
    found = scores(of(directions), directions, samples)
    assert found.f1 == found.precision == found.recall == found.uniqueness == 1
    assert found.mcc == pytest.approx(1)
    assert found.explained_variance == pytest.approx(1)
    assert found.shrinkage == pytest.approx(1, abs=0.2)  # tokens with no feature have no length
    assert found.dead == 0
    assert found.l0 == found.true_l0 == pytest.approx(0.3 * N, rel=0.1)
    assert found.tokens == B


def test_order_length_and_sign_of_rows_do_not_matter(directions, samples):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    lengths = torch.tensor([1.0, 7.0, 0.1, -1.0, -2.0, 3.0])[:, None]
    found = scores(of(directions[order] * lengths, encoder=directions[order]), directions, samples)
    assert (found.f1, found.uniqueness) == (1, 1)
    assert found.mcc == pytest.approx(1)


def test_a_smaller_dictionary_is_judged_by_what_it_has(directions, samples):
    found = scores(of(directions[:2]), directions, samples)
    assert (found.f1, found.uniqueness) == (1, 1)
    assert found.mcc == pytest.approx(1)
    assert 0 < found.explained_variance < 0.5


def test_duplicates_are_not_unique_and_pair_only_once(directions, samples):
    found = scores(of(directions[[0, 0, 1, 1]]), directions, samples)
    assert found.f1 == 1  # each does detect its feature
    assert found.uniqueness == 0.5
    assert found.mcc == pytest.approx(0.5, abs=1e-6)  # the second of each pairs with one at a right angle


def test_a_feature_that_never_is_active_scores_0(directions, samples):
    sae = of(directions)
    with torch.no_grad():
        sae.threshold[:3] = 1e9
    found = scores(sae, directions, samples)
    assert found.f1 == found.precision == found.recall == found.dead == 0.5
    assert found.uniqueness == 1


def test_a_feature_that_always_is_active_recalls_all(directions, samples):
    found = scores(of(directions, b_enc=10.0), directions, samples)
    rate = (sum(len(code.features_N) for _, code in samples) / N) / B
    assert (found.recall, found.l0) == (1, N)
    assert found.precision == pytest.approx(rate)


def test_counts_by_hand():
    # learned 0 and 2 are nearest to true 1, learned 1 to true 0; learned 3 to true 2, which never is active
    detection = Detection(torch.tensor([1, 0, 1, 2]), 3)
    f = torch.tensor([[1.0, 0, 0, 2], [1, 0, 3, 0], [0, 2, 0, 0], [1, 0, 0, 0]])
    a = torch.tensor([[0.0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    detection.add(f, as_code(a))
    precision, recall, f1 = detection.metrics()
    assert precision == pytest.approx(np.mean([2 / 3, 1, 1, 0]))
    assert recall == pytest.approx(np.mean([1, 1 / 2, 1 / 2, 0]))
    assert f1 == pytest.approx(np.mean([4 / 5, 2 / 3, 2 / 3, 0]))


def test_a_negative_feature_is_active():
    detection = Detection(torch.tensor([0]), 1)
    detection.add(torch.tensor([[-1.0], [0.0]]), as_code(torch.tensor([[1.0], [1.0]])))
    assert detection.metrics() == (1, 0.5, pytest.approx(2 / 3))


@given(seed=st.integers(0, 2**31), F=st.integers(1, 9), true=st.integers(1, 7), tokens=st.integers(1, 12))
def test_counts_are_those_of_dense_arrays(seed, F, true, tokens):
    g = torch.Generator().manual_seed(seed)
    f = torch.rand(tokens, F, generator=g) * (torch.rand(tokens, F, generator=g) < 0.4)
    a = torch.rand(tokens, true, generator=g) * (torch.rand(tokens, true, generator=g) < 0.4)
    nearest = torch.randint(true, (F,), generator=g)
    detection = Detection(nearest, true)
    detection.add(f, as_code(a))
    on, there = f > 0, a[:, nearest] > 0
    both, either = (on & there).sum(0).double(), (on.sum(0), there.sum(0), on.sum(0) + there.sum(0))
    expected = [(both / n.clamp_min(1)).mean().item() for n in either]
    assert detection.metrics() == pytest.approx((*expected[:2], 2 * expected[2]))


def test_no_number_depends_on_how_tokens_are_batched(directions, samples):
    (x, code), sae = samples[0], of(directions + 0.3, theta=0.4)
    starts = code.starts_B1
    parts = [
        (x[a:b], Code(starts[a : b + 1] - starts[a], *(n[starts[a] : starts[b]] for n in code[1:])))
        for a, b in ((0, 1), (1, 130), (130, B))
    ]
    whole = scores(sae, directions, samples)
    assert scores(sae, directions, parts) == pytest.approx(whole)
    assert 0.1 < whole.f1 < 0.99


def test_a_row_of_length_0_is_like_nothing(directions):
    likeness = likenesses(torch.cat([directions[:1], torch.zeros(1, D)]), directions)
    assert likeness[0] == pytest.approx(torch.eye(N)[0], abs=1e-6)
    assert likeness[1].eq(0).all()
    assert mcc(likeness) == pytest.approx(0.5)


def test_uniqueness_counts_true_features():
    assert uniqueness(torch.tensor([4, 4, 4, 0])) == 0.5


class TestReadout:
    def test_finds_what_can_be_told_apart(self, directions, samples):
        sae = linear_readout(directions, N, lambda: samples)
        found = scores(sae, directions, samples)
        assert found.f1 == pytest.approx(1, abs=0.02)
        assert found.uniqueness == 1
        assert found.explained_variance > 0.9

    def test_takes_those_that_are_most_often_active(self, directions):
        g = torch.Generator().manual_seed(2)
        a = (torch.rand(B, N, generator=g) < torch.tensor([0.1, 0.6, 0.1, 0.5, 0.1, 0.1])).float()
        sae = linear_readout(directions, 2, lambda: [(a @ directions, as_code(a))])
        assert likenesses(sae.W_dec, directions).argmax(1).tolist() == [1, 3]

    def test_sees_parents_and_siblings(self):
        """The direction alone, C⁻¹ d, comes to an F1 of 0.74 here."""
        config = WorldConfig(features=256, width=48, roots=4, depth=2, least_often=0.005, orthogonal_steps=5)
        world = make_world(config)
        source = Samples(world, batch_tokens=2000, seed=0)
        fitted, others = ([source.truth(s) for s in steps] for steps in (range(5), range(5, 8)))
        found = scores(linear_readout(world.directions_ND, 64, lambda: fitted), world.directions_ND, others)
        assert found.f1 > 0.85
        assert found.mcc == pytest.approx(1)

    def test_its_thresholds_are_the_best(self, directions, samples):
        noisy = [(x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)), c) for x, c in samples]
        sae = linear_readout(directions, N, lambda: noisy)
        best = scores(sae, directions, noisy).f1
        for factor in (0.6, 0.8, 1.25, 1.6):
            moved = sae.changed({"threshold": sae.weights["threshold"] * factor})
            assert scores(moved, directions, noisy).f1 <= best + 1e-9

    def test_an_untrained_one_encodes_x_less_its_mean(self, directions):
        mean = torch.arange(D).float()
        sae = untrained(of(directions, theta=0.0), mean)
        assert sae.encode(mean).detach() == pytest.approx(torch.zeros(N), abs=1e-5)
        assert sae(mean).detach() == pytest.approx(mean, abs=1e-5)
