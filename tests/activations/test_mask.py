"""Which tokens are outliers, and what they hold."""

import pytest
import torch

from unmix.activations.mask import Mask, longer, outliers
from unmix.activations.outliers import from_facts
from unmix.config import EVERY_TOKEN, MaskConfig


def test_the_outliers_and_their_shares():
    norm_R = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 10.1, 100.0, 1.0, 1.0])
    found = outliers(norm_R, 1.0)
    assert (found.tokens, found.of_tokens, found.longer_than) == (2, 10, 10.0)
    assert found.share_of_tokens == 0.2
    assert found.share_of_norm == pytest.approx(110.1 / 127.1)
    assert found.share_of_square == pytest.approx((10.1**2 + 1e4) / (7 + 100 + 10.1**2 + 1e4))
    assert str(found).startswith("99 % of Σ||x||² is on 20 % of the tokens, whose norms are above 10 times the median")


def test_samples_add_up():
    norm_R = torch.rand(50, generator=torch.Generator().manual_seed(0)) ** -2
    whole = outliers(norm_R, 1.5)
    parts = outliers(norm_R[:0], 1.5)
    for part in norm_R.split(7):
        parts = parts.plus(outliers(part, 1.5))
    assert parts[:4] == whole[:4]
    assert parts[4:] == pytest.approx(whole[4:])
    assert from_facts(whole.facts()) == whole
    assert outliers(norm_R[:0], 1.0).facts()["share_of_square"] == 0.0


def test_what_is_not_finite_is_no_outlier_and_stays_to_be_seen():
    x = torch.tensor([[1.0, 0.0], [torch.inf, 0.0], [torch.nan, 0.0], [50.0, 0.0]])
    assert longer(x.norm(dim=1), 10.0).tolist() == [False, False, False, True]
    assert Mask(MaskConfig(), [], 1.0).keeps(torch.arange(4), x).tolist() == [True, True, True, False]


def test_what_a_dictionary_says_of_its_mask():
    assert Mask(EVERY_TOKEN, [0], 3.0).facts() == {}
    facts = Mask(MaskConfig(special=True), [0, 2], 3.0).facts()
    assert facts["rule"].startswith(
        "special tokens and tokens with norms above 10 times the median were not trained on"
    )
    assert (facts["longer_than"], facts["special_ids"]) == (30.0, [0, 2])
