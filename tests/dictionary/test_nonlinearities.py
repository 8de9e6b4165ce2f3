"""Each nonlinearity against loops over tokens and features, in float64; its derivative; the form that is saved."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import random_weights

from unmix.dictionary.nonlinearities import BatchTopK, Gated, JumpRelu, Relu, TanhRelu, TopK

D, E, F, B = 4, 3, 12, 9
EVERY = [Relu(), TanhRelu(), JumpRelu(0.5), TopK(3), Gated()]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(phi, seed=0):
    """Random, the parameters of its own too."""
    own = {name: 0.5 * randn(F, seed=seed + n + 1) for n, name in enumerate(phi.start(F))}
    return random_weights(D, F, seed, E=E) | own


def whole_numbers(*shape, seed=0, least=-3, most=3):
    """So that sums and products are exact, and many are equal."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(least, most + 1, shape, generator=g).double()


def rows_of_norm(norms):
    """Decoder rows along one axis: their norms are exact."""
    return torch.tensor(norms, dtype=torch.float64)[:, None] * torch.eye(1, E, dtype=torch.float64)


def largest(scores, k):
    """Where the k largest stand; of equal ones those that come first. What contributes nothing is not kept."""
    return {n for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:k] if scores[n] > 0}


def topk_by_hand(z_BF, norms, k):
    rows = []
    for z_F in z_BF.tolist():
        kept = largest([max(z, 0) * norm for z, norm in zip(z_F, norms, strict=True)], k)
        rows.append([max(z, 0) if i in kept else 0.0 for i, z in enumerate(z_F)])
    return torch.tensor(rows, dtype=torch.float64)


def batchtopk_by_hand(z_BF, norms, entries):
    z_N = [z for z_F in z_BF.tolist() for z in z_F]
    kept = largest([max(z, 0) * norms[n % len(norms)] for n, z in enumerate(z_N)], entries)
    return torch.tensor([max(z, 0) if n in kept else 0.0 for n, z in enumerate(z_N)]).double().view_as(z_BF)


# ------------------------------------------------------------------------------------------------ values


def test_relu_and_tanh():
    z_BF = torch.tensor([[-2.0, -0.0, 0.0, 0.5, 3.0]], dtype=torch.float64)
    assert Relu()(z_BF, {}).tolist() == [[0, 0, 0, 0.5, 3.0]]
    assert TanhRelu()(z_BF, {}).tolist() == [pytest.approx([0, 0, 0, math.tanh(0.5), math.tanh(3.0)], rel=1e-15)]


TIED = {
    "tokens": st.integers(1, 6),
    "norms": st.lists(st.sampled_from([0.0, 1.0, 2.0, 4.0]), min_size=1, max_size=8),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=100, deadline=None)
@given(**TIED, k=st.integers(1, 10))
def test_topk_keeps_the_k_that_contribute_most_and_of_equal_ones_the_first(tokens, norms, seed, k):
    z_BF, weights = whole_numbers(tokens, len(norms), seed=seed), {"W_dec": rows_of_norm(norms)}
    assert torch.equal(TopK(k)(z_BF, weights), topk_by_hand(z_BF, norms, k))
    assert torch.equal(TopK(k, weigh_by_norm=False)(z_BF, weights), topk_by_hand(z_BF, [1.0] * len(norms), k))


@settings(max_examples=100, deadline=None)
@given(**TIED, k=st.sampled_from([0.1, 0.5, 1.0, 1.6, 3.0, 20.0]))
def test_batchtopk_keeps_b_k_entries_of_the_batch_and_of_equal_ones_the_first(tokens, norms, seed, k):
    z_BF, weights = whole_numbers(tokens, len(norms), seed=seed), {"W_dec": rows_of_norm(norms)}
    entries = BatchTopK(k).entries(tokens)
    assert abs(entries - k * tokens) <= 0.5
    assert torch.equal(BatchTopK(k)(z_BF, weights), batchtopk_by_hand(z_BF, norms, entries))


def test_ties_across_tokens_and_features():
    z_BF = torch.tensor([[1.0, 4.0, 2.0], [4.0, 1.0, 2.0]], dtype=torch.float64)
    weights = {"W_dec": rows_of_norm([2.0, 1.0, 2.0])}  # contributions 2 4 4, 8 1 4
    assert TopK(1)(z_BF, weights).tolist() == [[0, 4, 0], [4, 0, 0]]
    assert TopK(2)(z_BF, weights).tolist() == [[0, 4, 2], [4, 0, 2]]
    assert BatchTopK(1.0)(z_BF, weights).tolist() == [[0, 4, 0], [4, 0, 0]]
    assert BatchTopK(1.5)(z_BF, weights).tolist() == [[0, 4, 2], [4, 0, 0]]


def test_a_batch_may_have_room_for_no_entry():
    z_BF, weights = randn(2, F), random_weights(D, F, 0, E=E)
    assert BatchTopK(0.2).entries(2) == 0
    assert not BatchTopK(0.2)(z_BF, weights).any()


@pytest.mark.parametrize("phi", [TopK(5), TopK(F), TopK(F + 1), BatchTopK(5.0), BatchTopK(F), BatchTopK(2.0 * F)])
def test_with_fewer_positive_than_k_all_of_them_are_kept(phi):
    z_BF = -randn(B, F).abs()
    z_BF[:, [2, 7]] *= -1
    if phi.k >= F:
        z_BF = randn(B, F)
    assert torch.equal(phi(z_BF, random_weights(D, F, 0, E=E)), torch.relu(z_BF))


def test_jumprelu_is_z_above_the_threshold():
    z_BF = torch.tensor([[-1.0, 0.25, 0.5, 0.75, 2.0]], dtype=torch.float64)
    threshold = {"threshold": torch.tensor([0.5, 0.5, 0.5, 0.5, 3.0]).double()}
    assert JumpRelu()(z_BF, threshold).tolist() == [[0, 0, 0, 0.75, 0]]
    assert JumpRelu()(torch.full((1, 5), math.nan).double(), threshold).isnan().all()


def test_gated_is_a_magnitude_where_the_gate_is_open():
    weights, z_BF = weights_of(Gated()), randn(B, F, seed=9)
    f_BF = Gated()(z_BF, weights)
    for t in range(B):
        for i in range(F):
            z, b, r, m = (float(v) for v in (z_BF[t, i], weights["b_enc"][i], weights["r_mag"][i], weights["b_mag"][i]))
            magnitude = math.exp(r) * (z - b) + m
            wanted = magnitude if z > 0 and magnitude > 0 else 0.0
            assert f_BF[t, i].item() == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    assert 0 < (f_BF > 0).sum() < (z_BF > 0).sum()


def test_at_the_start_a_gated_one_is_relu_of_the_product_with_x():
    """Its magnitude has no bias of the gate's."""
    phi = Gated()
    weights, z_BF = random_weights(D, F, 0, E=E) | phi.start(F), randn(B, F)
    assert torch.equal(phi(z_BF, weights), torch.relu(z_BF - weights["b_enc"]) * (z_BF > 0))


# ------------------------------------------------------------------------------------------------ derivatives


@pytest.mark.parametrize("phi", [TopK(3), TopK(3, weigh_by_norm=False), BatchTopK(2.5), Relu()])
def test_what_is_kept_has_derivative_1_and_the_rest_0(phi):
    z_BF, up_BF, weights = randn(B, F).requires_grad_(), randn(B, F, seed=1), random_weights(D, F, 0, E=E)
    weights["W_dec"].requires_grad_()
    f_BF = phi(z_BF, weights)
    dz_BF, dW = torch.autograd.grad(f_BF, [z_BF, weights["W_dec"]], up_BF, allow_unused=True)
    assert torch.equal(dz_BF, up_BF * (f_BF > 0))
    assert dW is None  # which are kept is not differentiated


def test_the_derivatives_of_jumprelu_are_those_of_its_straight_through_estimator():
    theta_F = torch.tensor([0.1, 0.5, 1.0]).double().requires_grad_()
    around_B1 = torch.tensor([-2.0, -0.4, -0.3, -1e-9, 0.0, 1e-9, 0.3, 0.4, 2.0]).double()[:, None]
    z_BF, up_BF = (theta_F.detach() + around_B1).requires_grad_(), randn(len(around_B1), 3)
    f_BF = JumpRelu(bandwidth=0.7)(z_BF, {"threshold": theta_F})
    dz_BF, dtheta_F = torch.autograd.grad(f_BF, [z_BF, theta_F], up_BF)
    for i, theta in enumerate(theta_F.tolist()):
        wanted = 0.0
        for z, up, dz in zip(z_BF[:, i].tolist(), up_BF[:, i].tolist(), dz_BF[:, i].tolist(), strict=True):
            assert dz == (up if z > theta else 0.0)
            wanted -= theta / 0.7 * up * (abs((z - theta) / 0.7) < 0.5)  # those up to 0.3 away
        assert dtheta_F[i].item() == pytest.approx(wanted, rel=1e-12)


def test_a_threshold_starts_where_it_should_and_is_kept_from_falling_below_0():
    phi = JumpRelu(start_at=0.3)
    weights = random_weights(D, F, 0, E=E) | phi.start(F)
    assert weights["threshold"].tolist() == pytest.approx([0.3] * F)
    before = {name: w.clone() for name, w in weights.items()}
    weights["threshold"][:3] = torch.tensor([-1.0, 0.0, 2.0])
    phi.constrain(weights)
    assert weights["threshold"][:4].tolist() == pytest.approx([0.0, 0.0, 2.0, 0.3])
    assert all(torch.equal(w, before[name]) for name, w in weights.items() if name != "threshold")


def test_the_derivatives_of_gated_and_tanh_are_right():
    z_BF = randn(B, F)
    z_BF = (z_BF + 0.1 * z_BF.sign()).requires_grad_()  # no gate is at its edge
    weights = weights_of(Gated())
    own = [weights[name].requires_grad_() for name in ("b_enc", "r_mag", "b_mag")]

    def gated(z_BF, b_F, r_F, m_F):
        return Gated()(z_BF, {"b_enc": b_F, "r_mag": r_F, "b_mag": m_F})

    assert torch.autograd.gradcheck(gated, (z_BF, *own), eps=1e-7, atol=1e-5)
    assert torch.autograd.gradcheck(lambda z_BF: TanhRelu()(z_BF, {}), (z_BF,), eps=1e-7, atol=1e-5)


# ------------------------------------------------------------------------------------------------ as it is saved


def code_and_output(phi, weights, x_BD):
    f_BF = phi(x_BD @ weights["W_enc"] + weights["b_enc"], weights)
    return f_BF, f_BF @ weights["W_dec"] + weights["b_dec"]


@pytest.mark.parametrize("phi", EVERY, ids=repr)
def test_the_saved_form_is_the_same_function_of_each_token_by_itself(phi):
    weights, x_BD = weights_of(phi), randn(B, D, seed=5)
    f_BF, y_hat_BE = code_and_output(phi, weights, x_BD)
    saved, kept = phi.saved(weights, 0.0)
    for part in (x_BD, x_BD[2:3]):
        found_BF, found_BE = code_and_output(saved, kept, part)
        wanted_BE = y_hat_BE if len(part) == B else y_hat_BE[2:3]
        torch.testing.assert_close(found_BE, wanted_BE, rtol=1e-12, atol=1e-12)
        assert torch.equal(found_BF > 0, (f_BF if len(part) == B else f_BF[2:3]) > 0)
    alone, own = phi.alone(weights, 0.0)
    torch.testing.assert_close(code_and_output(alone, own, x_BD), (f_BF, y_hat_BE), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("phi", [TopK(3), BatchTopK(3.0)])
def test_decoder_rows_are_saved_with_length_1(phi):
    weights = weights_of(phi)
    _, kept = phi.saved(weights, 0.7)
    torch.testing.assert_close(kept["W_dec"].norm(dim=1), torch.ones(F).double(), rtol=1e-12, atol=0)
    assert torch.equal(kept["b_dec"], weights["b_dec"])


def whole_dictionary(norms):
    """Of whole numbers: every contribution is exact."""
    W_enc, b_enc = whole_numbers(D, len(norms), seed=1), whole_numbers(len(norms), seed=2)
    return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": rows_of_norm(norms), "b_dec": torch.zeros(E).double()}


@pytest.mark.parametrize("form", ["saved", "alone"])
@pytest.mark.parametrize("threshold", [0.0, 1.0, 4.0, 8.0, 1e6])
def test_a_batchtopk_comes_to_keep_exactly_what_contributes_more_than_its_threshold(form, threshold):
    norms = [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 0.0]  # the last contributes nothing
    weights, x_BD = whole_dictionary(norms), whole_numbers(40, D, seed=3)
    phi, kept = getattr(BatchTopK(2.0), form)(weights, threshold)
    f_BF, y_hat_BE = code_and_output(phi, kept, x_BD)
    z_BF, equal = x_BD @ weights["W_enc"] + weights["b_enc"], 0
    for t in range(len(x_BD)):
        y_hat = 0.0
        for i, norm in enumerate(norms):
            contribution = max(z_BF[t, i].item(), 0.0) * norm
            equal += contribution == threshold
            assert (f_BF[t, i] != 0).item() == (contribution > threshold)
            y_hat += contribution if contribution > threshold else 0.0  # rows lie along the first axis
        assert y_hat_BE[t].tolist() == [y_hat, 0.0, 0.0]
    assert equal or threshold == 1e6


@pytest.mark.parametrize("phi", [TopK(2), BatchTopK(2.0)])
def test_a_feature_whose_decoder_row_is_zero_takes_no_place_in_what_is_saved(phi):
    weights, x_BD = whole_dictionary([1.0, 0.0, 2.0, 0.0, 4.0]), whole_numbers(40, D, seed=3)
    _, y_hat_BE = code_and_output(TopK(2), weights, x_BD)
    saved, kept = phi.saved(weights, 0.5)
    found_BF, found_BE = code_and_output(saved, kept, x_BD)
    assert not (found_BF[:, [1, 3]] > 0).any()
    if isinstance(phi, TopK):
        assert torch.equal(found_BE, y_hat_BE)
