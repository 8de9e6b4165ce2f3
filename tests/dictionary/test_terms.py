"""Each term against loops over tokens and features, in float64."""

import math

import pytest
import torch
from kernel_cases import random_weights

from unmix.dictionary.nonlinearities import JumpRelu, Relu
from unmix.dictionary.terms import L0, L1, AuxK, Gate, GateError, Pass, SquaredError, loss, squares, token_weights

B, D, E, F = 7, 4, 3, 10


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(phi=None, zero_token=False, **own) -> Pass:
    """A pass over random tokens whose target is narrower than they are; its leaves are z and the weights."""
    weights = {name: w.requires_grad_() for name, w in (random_weights(D, F, 0, E=E) | own).items()}
    x_BD, y_BE = randn(B, D, seed=1), randn(B, E, seed=2)
    if zero_token:
        y_BE[2] = 0
    z_BF = (x_BD @ weights["W_enc"] + weights["b_enc"]).detach().requires_grad_()
    f_BF = (phi or Relu())(z_BF, weights)
    return Pass(x_BD, y_BE, z_BF, f_BF, f_BF @ weights["W_dec"] + weights["b_dec"], weights)


def square_by_hand(p: Pass, t: int, first: int, code=None) -> float:
    """||ŷ - y||² of a token, with the first so many features."""
    f_F, W_FE, b_E = (code if code is not None else p.f_BF[t]).tolist(), p.weights["W_dec"], p.weights["b_dec"]
    square = 0.0
    for e in range(E):
        y_hat = b_E[e].item() + sum(f_F[i] * W_FE[i, e].item() for i in range(first))
        square += (y_hat - p.y_BE[t, e].item()) ** 2
    return square


def norm_by_hand(p: Pass, i: int) -> float:
    return math.sqrt(sum(w * w for w in p.weights["W_dec"][i].tolist()))


@pytest.mark.parametrize("norm_power", [0, 1, 2])
@pytest.mark.parametrize("prefixes", [(), (F,), (1, F), (2, 3, 7, F)])
def test_the_squared_error_is_the_mean_over_prefixes_each_token_over_a_power_of_its_length(norm_power, prefixes):
    p = made(zero_token=True)
    wanted = 0.0
    for t in range(B):
        length = math.sqrt(sum(y * y for y in p.y_BE[t].tolist()))
        of_token = [square_by_hand(p, t, first) for first in prefixes or (F,)]
        weight = 1.0 if norm_power == 0 else 0.0 if length == 0 else length**-norm_power
        wanted += weight * sum(of_token) / len(of_token)
    assert SquaredError(norm_power, prefixes)(p).item() == pytest.approx(wanted, rel=1e-12)


def test_one_prefix_of_all_features_is_none():
    p = made()
    names = ["W_dec", "b_dec"]
    for a, b in zip(
        torch.autograd.grad(SquaredError(1)(p), [p.z_BF, *(p.weights[n] for n in names)], retain_graph=True),
        torch.autograd.grad(SquaredError(1, (F,))(p), [p.z_BF, *(p.weights[n] for n in names)]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_feature_answers_for_the_prefixes_that_it_is_in():
    """Its gradient is the mean of those of the errors that it is part of; the last ones are in one alone."""
    p, prefixes = made(), (2, 5, F)
    found = torch.autograd.grad(SquaredError(0, prefixes)(p), p.f_BF)[0]
    W_FE, b_E = p.weights["W_dec"].detach(), p.weights["b_dec"].detach()
    for i in range(F):
        wanted_B = torch.zeros(B).double()
        for first in prefixes:
            if i < first:
                error_BE = p.f_BF.detach()[:, :first] @ W_FE[:first] + b_E - p.y_BE
                wanted_B += 2 / len(prefixes) * error_BE @ W_FE[i]
        torch.testing.assert_close(found[:, i], wanted_B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weigh_by_norm", [True, False])
def test_l1_is_the_sum_of_the_activations_times_norms_or_1(weigh_by_norm):
    p = made()
    wanted = sum(
        p.f_BF[t, i].item() * (norm_by_hand(p, i) if weigh_by_norm else 1.0) for t in range(B) for i in range(F)
    )
    assert L1(weigh_by_norm)(p).item() == pytest.approx(wanted, rel=1e-12)


def test_l0_counts_and_moves_only_thresholds_that_are_near():
    bandwidth = 0.7
    p = made(JumpRelu(bandwidth), threshold=0.6 + 0.3 * randn(F, seed=4))
    theta_F = p.weights["threshold"].tolist()
    value = L0(bandwidth)(p)
    assert value.item() == sum(p.z_BF[t, i].item() > theta_F[i] for t in range(B) for i in range(F))
    dtheta_F, dz_BF, dW = torch.autograd.grad(
        value, [p.weights["threshold"], p.z_BF, p.weights["W_dec"]], allow_unused=True
    )
    assert dz_BF is None or not dz_BF.any()
    assert dW is None
    moved = 0
    for i, theta in enumerate(theta_F):
        near = sum(abs((p.z_BF[t, i].item() - theta) / bandwidth) < 0.5 for t in range(B))
        moved += near > 0
        assert dtheta_F[i].item() == pytest.approx(-near / bandwidth, rel=1e-12)
    assert 0 < moved < F


def test_the_gate_is_what_is_positive_of_z_times_norms():
    p = made()
    wanted = sum(max(p.z_BF[t, i].item(), 0.0) * norm_by_hand(p, i) for t in range(B) for i in range(F))
    assert Gate()(p).item() == pytest.approx(wanted, rel=1e-12)


def test_the_error_of_the_gate_leaves_the_decoder_alone():
    p = made()
    wanted = sum(square_by_hand(p, t, F, code=torch.relu(p.z_BF[t])) for t in range(B))
    value = GateError()(p)
    assert value.item() == pytest.approx(wanted, rel=1e-12)
    dz_BF, dW, db = torch.autograd.grad(value, [p.z_BF, p.weights["W_dec"], p.weights["b_dec"]], allow_unused=True)
    assert dW is None
    assert db is None
    z_BF, W_FE = p.z_BF.detach(), p.weights["W_dec"].detach()
    error_BE = torch.relu(z_BF) @ W_FE + p.weights["b_dec"].detach() - p.y_BE
    torch.testing.assert_close(dz_BF, 2 * error_BE @ W_FE.T * (z_BF > 0), rtol=1e-12, atol=1e-12)


def test_a_loss_is_each_sum_times_its_coefficient():
    objective = ((1.0, SquaredError()), (0.25, L1()), (3.0, GateError()))
    assert loss(objective, (8.0, 4.0, 0.5)) == 8.0 + 1.0 + 1.5
    assert loss((), ()) == 0
    with pytest.raises(ValueError, match="shorter"):
        loss(objective, (8.0, 4.0))


def test_where_a_centre_was_taken_away_the_length_is_that_of_what_it_was():
    y_BE, c_E = torch.tensor([[3.0, 4.0], [1.0, -2.0]]), torch.tensor([1.0, -2.0])
    assert SquaredError(1, centre_E=c_E).weigh(y_BE - c_E).tolist() == [pytest.approx(0.2), pytest.approx(5**-0.5)]
    assert SquaredError(2, centre_E=c_E).weigh(-c_E[None]).tolist() == [0.0]


def test_squares_and_token_weights():
    y_hat_BE, y_BE = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    assert squares(y_hat_BE, y_BE).tolist() == [25.0, 4.0]
    x_BD = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    assert token_weights(x_BD, 0).tolist() == [1.0, 1.0]
    assert token_weights(x_BD, 1).tolist() == [0.2, 0.0]
    assert token_weights(x_BD, 2).tolist() == [pytest.approx(0.04, rel=1e-15), 0.0]


@pytest.mark.parametrize("both_signs", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3, 16, 39, 40, 99])
def test_auxk_takes_of_equal_contributions_those_with_the_lowest_index(k, both_signs):
    """Whole numbers, most of them equal; contributions may be below 0, where few features are above."""
    g, N = torch.Generator().manual_seed(k), 40
    z_BN = torch.randint(-2, 3, (30, N), generator=g).double()
    W_dec_NE = torch.eye(1, E).double() * torch.tensor([1.0, 2.0, 0.5]).double()[torch.arange(N) % 3][:, None]
    taken_BN = AuxK(k, torch.arange(N), both_signs=both_signs).takes(z_BN, W_dec_NE)
    for z_N, taken_N in zip(z_BN.tolist(), taken_BN, strict=True):
        score = [
            (abs(z) if both_signs else z) * norm_of for z, norm_of in zip(z_N, W_dec_NE[:, 0].tolist(), strict=True)
        ]
        wanted = sorted(range(N), key=lambda n, score=score: (-score[n], n))[:k]
        assert taken_N.nonzero().flatten().tolist() == sorted(wanted)


def test_auxk_takes_what_is_nan():
    z_BN = torch.tensor([[1.0, math.nan, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0]]).double()
    taken_BN = AuxK(2, torch.arange(4)).takes(z_BN, torch.ones(4, E).double())
    assert taken_BN[0, 1]
    assert taken_BN[1].tolist() == [False, True, True, False]
