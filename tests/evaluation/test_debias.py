"""A scale per feature: found exactly where shrinkage is one, and never a worse fit on the tokens it was made for."""

import pytest
import torch

from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.per_token import ByLength, LayerNorm
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


@pytest.mark.parametrize("per_token", [ByLength(), LayerNorm()])
def test_known_shrinkage_is_undone_where_each_token_is_scaled(per_token):
    """x = T⁻¹(f W_dec) of a dictionary whose rows have no mean; all features shrunk, f unchanged."""
    draw = torch.Generator().manual_seed(4)
    W_FD = torch.randn(12, 16, generator=draw)
    W_FD = (W_FD - W_FD.mean(1, keepdim=True)) / W_FD.norm(dim=1, keepdim=True)
    code_BF = torch.rand(3000, 12, generator=draw) * (torch.rand(3000, 12, generator=draw) < 0.3)
    u_BD = code_BF @ W_FD
    x_BD = u_BD * (1 + 9 * torch.rand(3000, 1, generator=draw)) + (per_token == LayerNorm())
    x_BD = torch.cat([x_BD, torch.zeros(3, 16)])  # and tokens that say nothing

    class Frozen(Dictionary):
        def encode(self, y):  # what a token's code is once it is scaled as T scales it
            _, scale, shift = per_token.take(y)
            exact = (y if shift is None else y - shift) / scale.clamp_min(1e-30)
            return (exact @ torch.linalg.pinv(W_FD)).clamp_min(0) * (scale > 0)

    weights = {"W_enc": W_FD.T, "b_enc": torch.zeros(12), "W_dec": W_FD * 0.4, "b_dec": torch.zeros(16)}
    refitted = debias(Frozen(weights, per_token=per_token), [x_BD])
    torch.testing.assert_close(refitted.W_dec.detach(), W_FD, rtol=2e-2, atol=2e-2)


def test_a_skip_transcoder_is_refused():
    sae = new_dictionary(4, 8, 0.3, 1).changed({"W_skip": torch.zeros(4, 4)})
    with pytest.raises(UserError, match="W_skip cannot be refitted"):
        debias(sae, [])


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
