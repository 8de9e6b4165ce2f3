import pytest
import torch

from unmix.dictionary.model import Dictionary, fold_scaling, new_dictionary
from unmix.dictionary.nonlinearities import TopK


def test_it_starts_as_the_recipe_says():
    sae = new_dictionary(16, 64, 0.1, seed=3)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.full((64,), 0.1))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    assert torch.equal(sae.W_dec, new_dictionary(16, 64, 0.1, seed=3).W_dec)


def test_any_leading_shape_and_the_dtype_of_the_input():
    sae = new_dictionary(16, 64, 0.1, seed=0)
    x = torch.randn(2, 3, 16, dtype=torch.bfloat16)
    assert sae.encode(x).shape == (2, 3, 64)
    assert sae(x).shape == (2, 3, 16)
    assert sae(x).dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [1.0, 0.03, 17.0])
def test_a_folded_dictionary_acts_on_raw_activations(scale):
    sae = new_dictionary(16, 64, 0.5, seed=0)
    with torch.no_grad():
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    x = torch.randn(10, 16)
    folded = fold_scaling(sae, scale)
    torch.testing.assert_close(folded.encode(x), sae.encode(x * scale))
    torch.testing.assert_close(folded(x), sae(x * scale) / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        fold_scaling(new_dictionary(4, 8, 0.1, 0), scale)


def test_a_fingerprint_is_of_all_that_the_answers_depend_on():
    sae = new_dictionary(4, 8, 0.1, 0)
    assert sae.fingerprint == new_dictionary(4, 8, 0.1, 0).fingerprint
    others = [
        new_dictionary(4, 8, 0.1, 1),
        sae.changed({}, TopK(2)),
        sae.changed({}, TopK(3)),
        sae.changed({"b_dec": torch.full((4,), 1e-30)}),
        sae.changed({"threshold": torch.zeros(8)}),
    ]
    for changed in ({"per_token_scaling": True}, {"longest": 3.0}):
        others.append(Dictionary(sae.weights, sae.nonlinearity, **changed))
    assert len({sae.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
