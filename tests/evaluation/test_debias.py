"""A scale per feature: found exactly where shrinkage is one, and never a worse fit on the tokens it was made for."""

import pytest
import torch

from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.errors import UserError
from unmix.evaluation.debias import LARGEST, debias


def test_known_shrinkage_is_undone():
    truth = new_dictionary(16, 12, 1.0, 0)
    x = torch.randn(4000, 16)
    target = truth(x).detach()
    shrink = torch.linspace(0.4, 0.9, 12)

    class Frozen(Dictionary):
        def encode(self, y):  # the code of x, whatever is asked for: the support is frozen
            return truth.encode(x)

    with torch.no_grad():
        shrunk = Frozen(truth.weights | {"W_dec": truth.W_dec * shrink[:, None]})
    refitted = debias(shrunk, [target])
    torch.testing.assert_close(refitted.W_dec.detach(), truth.W_dec.detach(), rtol=2e-2, atol=2e-2)


def test_it_never_fits_its_own_tokens_worse_and_leaves_the_support_alone():
    sae = new_dictionary(8, 40, 0.3, 1)
    batches = [torch.randn(300, 8) for _ in range(3)]
    x = torch.cat(batches)
    refitted = debias(sae, batches)
    assert (refitted(x) - x).square().sum() < (sae(x) - x).square().sum()
    assert torch.equal(refitted.encode(x), sae.encode(x))


def test_a_feature_that_never_fires_keeps_its_row():
    sae = new_dictionary(8, 40, 0.3, 1)
    with torch.no_grad():
        sae.b_enc[5] = -100
    refitted = debias(sae, [torch.randn(300, 8)])
    torch.testing.assert_close(refitted.W_dec[5], sae.W_dec[5])


def test_too_large_is_said():
    shapes = {"W_enc": (1, LARGEST + 1), "b_enc": (LARGEST + 1,), "W_dec": (LARGEST + 1, 1), "b_dec": (1,)}
    sae = Dictionary({name: torch.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(UserError, match="refitting 16385 features"):
        debias(sae, [])
