"""Dead and rare features of a member, what brings them back, and the other parts that any architecture may have."""

import pytest
import torch
from contract.cases import D, F, batch, member_of, train

from unmix.dictionary.terms import L0Target

LR = 1e-2


def dead(member, tokens=256):
    """Features that are active on none of so many tokens."""
    with torch.no_grad():
        f_BF = member.sae().encode(batch(10_000, tokens=tokens).activations["h"])
    return int((f_BF == 0).all(0).sum())


def with_dead_half(architecture, **keys):
    """A member of which every second feature has a bias so low that it is never active."""
    member = member_of(architecture, training={"revive_after_tokens": 200} | keys.pop("training", {}), **keys)
    member.weights["b_enc"][::2] -= 50
    return member


def test_dead_and_rare_are_counted_in_two_windows():
    member = member_of("relu")
    member.tokens = 5000
    member.silent_F.copy_(torch.tensor([0] * 10 + [99] * 5 + [100] * 4 + [999] * 6 + [1000] * 8 + [5000] * 7))
    row = member.metrics(1000)
    assert row["dead_fraction"] == pytest.approx(15 / 40)
    assert row["rare_fraction"] == pytest.approx(10 / 40)


def test_neither_is_known_before_the_window_has_passed():
    member = train(member_of("relu"), 2)
    row = member.metrics(1000)
    assert row["dead_fraction"] is None
    assert row["rare_fraction"] is None


def test_with_noise_silence_is_counted_over_the_tokens_that_are_looked_at_without_it():
    """One in 16: a feature that fires once in 100 tokens must not be dead after 160 of which 10 were looked at."""
    member = train(with_dead_half("relu", noise=0.1), 20)
    assert (member.silent_F[::2] == 20 * 128 // 16).all()
    assert member.metrics(20 * 128)["dead_fraction"] is None
    assert member.metrics(20 * 128 // 16)["dead_fraction"] >= 0.5


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batchtopk", "gated"])
def test_dead_features_start_anew_when_their_time_has_come(architecture):
    member = with_dead_half(architecture, training={"resample_every": 20, "lr": LR})
    train(member, 19, lr=LR)
    assert dead(member) >= F // 2
    asleep = [i for i in range(0, F, 2) if member.silent_F[i] >= 200]
    train_step = batch(100 + 19)
    assert member.update(train_step, 19, LR, member.coefficient) == ""
    assert (member.silent_F[asleep] == 0).all()
    assert all((means["W_dec"][asleep] == 0).all() for means in (member.first, member.second))
    assert dead(member) < F // 2


def test_none_does_while_the_learning_rate_is_not_full():
    """In the warm-up and in the decay."""
    member = with_dead_half("relu", training={"resample_every": 20, "lr": LR})
    train(member, 20, lr=LR / 2)
    assert dead(member) >= F // 2
    assert (member.silent_F[::2] == 20 * 128).all()


def test_a_pre_activation_loss_brings_dead_features_back_and_leaves_the_others():
    without = with_dead_half("relu")
    pulled = with_dead_half("relu", preactivation=100.0)
    before = pulled.weights["b_enc"].clone()
    train(without, 30)
    train(pulled, 30)
    assert (pulled.weights["b_enc"][::2] > without.weights["b_enc"][::2] + 0.1).all()
    assert (without.weights["b_enc"][::2] == before[::2]).all()


@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
@pytest.mark.parametrize("architecture", ["relu", "jumprelu_tanh", "batchtopk"])
def test_an_aligned_dictionary_is_saved_with_inner_products_of_one(architecture, decoder):
    member = member_of(architecture, aligned=True, decoder=decoder)
    for trained in (member, train(member, 25)):
        sae = trained.sae()
        torch.testing.assert_close((sae.W_enc.T * sae.W_dec).sum(1), torch.ones(F))
    plain = train(member_of(architecture, decoder=decoder), 25).sae()
    assert ((plain.W_enc.T * plain.W_dec).sum(1) - 1).abs().max() > 0.05


def test_random_prefixes_are_drawn_for_each_step_and_are_the_same_for_all_members_of_a_seed():
    members = [member_of(name, random_prefixes=3) for name in ("relu", "batchtopk")]
    drawn = [[member.task(step, 0.3).error.prefixes for step in range(20)] for member in members]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 10
    assert all(len(prefixes) == 4 and prefixes[-1] == F for prefixes in drawn[0])


def test_an_abstopk_dictionary_has_features_of_both_signs():
    sae = train(member_of("abstopk", l0=4.0), 25).sae()
    f_BF = sae.encode(batch(7).activations["h"])
    assert ((f_BF != 0).sum(1) == 4).all()
    assert (f_BF < 0).any()
    assert (f_BF > 0).any()
    assert sae.W_enc.shape == (D, F)


def test_a_quadratic_target_is_come_to_with_one_coefficient():
    member = member_of("jumprelu_quadratic", l0=5.0, bandwidth=0.5)
    coefficient = member.coefficient
    targets = [member.task(0, 1.0).term(L0Target).target]
    train(member, 5)
    targets.append(member.task(5, 1.0).term(L0Target).target)
    assert member.coefficient == coefficient
    assert targets[0] == 5.0 < targets[1]  # the first batch has more
    train(member, 400, lr=3e-3)
    with torch.no_grad():
        f_BF = member.sae().encode(batch(10_000, tokens=5000).activations["h"])
    assert (f_BF != 0).sum(1).double().mean().item() == pytest.approx(5.0, rel=0.15)
