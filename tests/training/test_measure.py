"""Masks, scales and coefficients against their definitions."""

import math

import pytest
import torch

from unmix.activations.mask import Mask, outliers
from unmix.activations.stream import Batch
from unmix.config import EVERY_TOKEN, MaskConfig, SAEConfig, TrainingConfig
from unmix.errors import UserError
from unmix.training.measure import measure, norm_exponent

X = torch.nn.functional.normalize(torch.randn(200, 6, generator=torch.Generator().manual_seed(0))) * 3
X[:4] *= 50  # two separators, two others
IDS = torch.arange(200) + 10
IDS[:2] = 0
HEAD = Batch({"h": X}, IDS, torch.zeros(200, dtype=torch.int64))


def facts(l1=2.0, *, sae=None, **training):
    return measure(HEAD, "h", SAEConfig(**(sae or {})), TrainingConfig(**training), l1, [0])


def test_dataset_scaling_brings_the_mean_square_norm_to_the_width():
    found = facts(mask="none")
    ordinary = X[4:]  # outliers are no part of a scale, even where they are trained on
    assert ((ordinary * found.scale).square().sum(1).mean()).item() == pytest.approx(6)
    assert found.mean_norm == pytest.approx((ordinary * found.scale).norm(dim=1).mean().item())
    assert (found.coefficient, found.masked) == (2.0, 0)


def test_the_mask_takes_out_special_and_long_tokens():
    config = MaskConfig(special=True, norm_above=10)
    assert Mask(config, [0], 3.0).keeps(IDS, X).nonzero().flatten().tolist() == list(range(4, 200))
    assert Mask(MaskConfig(special=True, norm_above=None), [0], 3.0).keeps(IDS, X).sum() == 198
    assert Mask(EVERY_TOKEN, [0], 3.0).keeps(IDS, X).all()
    found = facts(mask={"special": True, "norm_above": 10})
    assert (found.tokens, found.masked) == (196, 4)
    assert found.median_norm == pytest.approx(3)
    assert found.scale == pytest.approx(math.sqrt(6) / 3)  # the long ones have no say


def test_where_most_tokens_are_zero_the_others_are_not_masked_away():
    """Their median has no length, which every other token is longer than."""
    x_RD = X.clone()
    x_RD[: len(X) * 2 // 3] = 0
    head = Batch({"h": x_RD}, IDS, torch.zeros(len(X), dtype=torch.int64))
    found = measure(head, "h", SAEConfig(), TrainingConfig(), 2.0, [0])
    assert (found.median_norm, found.masked, found.tokens) == (0.0, 0, 200)
    assert ((x_RD * found.scale).square().sum(1).mean()).item() == pytest.approx(6)
    mask = Mask(MaskConfig(special=True), [0], 0.0)
    assert mask.keeps(IDS, X).sum() == 198
    assert (mask.longest, mask.facts()["longer_than"]) == (None, None)
    assert "norms" not in mask.facts()["rule"]
    assert Mask(MaskConfig(), [], 0.0).facts() == {}
    assert outliers(x_RD.norm(dim=1), 0.0).tokens == 0


def test_nan_is_not_masked_away():
    x = torch.full((1, 6), torch.nan)
    assert Mask(MaskConfig(norm_above=2), [], 1.0).keeps(torch.tensor([5]), x).all()


def test_a_mask_that_leaves_nothing_is_a_users_mistake():
    with pytest.raises(UserError, match="leaves none of the 200 tokens"):
        facts(mask={"norm_above": 0.1})


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("kind", ["relu", "tanh_relu", "tanh_relu weighed", "jumprelu", "gated"])
def test_a_matched_coefficient_keeps_both_terms_in_proportion_when_lengths_change(kind, k):
    """Scale x by c and the SAE that reconstructs it with it: both terms of the loss grow by the same factor."""
    sae = SAEConfig(
        architecture=kind.split()[0], penalty="decoder_norm" if "weighed" in kind else "auto", scaling="none"
    )
    p = norm_exponent(sae, TrainingConfig(norm_power=k, l1_norm_power="matched"))
    c = 7.0
    error_grows = c ** (2 - k)
    # bounded features stay, their decoder rows grow; a count of active features stays
    penalty_grows = c if kind not in ("tanh_relu", "jumprelu") else 1.0
    assert c**p * penalty_grows == pytest.approx(error_grows)
    found = facts(3.0, sae={"architecture": kind.split()[0], "scaling": "none"}, l1_norm_power=1.5)
    assert found.coefficient == pytest.approx(3 * found.mean_norm**1.5)


def test_per_token_scaling_sees_norms_of_sqrt_d():
    found = facts(sae={"scaling": "token"}, l1_norm_power=1.0)
    assert (found.scale, found.mean_norm) == (1.0, pytest.approx(math.sqrt(6)))
    assert found.coefficient == pytest.approx(2 * math.sqrt(6))
