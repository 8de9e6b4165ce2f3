"""What a member counts of its batches, against the definitions."""

import pytest
import torch

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import EVERY_TOKEN, SAEConfig, TrainingConfig
from unmix.training.measure import measure
from unmix.training.member import Entry, new_member

D, F, B = 12, 32, 64


def batch(number):
    """Tokens between 1 and 8 times as long as the shortest."""
    g = torch.Generator().manual_seed(number)
    x_BD = torch.nn.functional.normalize(torch.randn(B, D, generator=g), dim=1) * (
        1 + 7 * torch.rand(B, 1, generator=g)
    )
    nowhere = torch.zeros(B, dtype=torch.int64)
    return Batch({"h": x_BD}, nowhere, nowhere)


@pytest.mark.parametrize("scaling", ["none", "dataset", "token"])
def test_logged_explained_variance_is_that_of_the_dictionary_on_raw_activations(scaling):
    config, training = SAEConfig(features=F, scaling=scaling), TrainingConfig(mask="none", dense="fp32")
    facts = measure(batch(0), "h", config, training, 0.1, [])
    member = new_member(
        Entry("m", "h", "", 0.1), D, config=config, training=training, facts=facts, mask=Mask(EVERY_TOKEN, [], 1.0)
    )
    batches = [batch(number) for number in range(3)]
    for step, now in enumerate(batches):
        assert member.update(now, step, 1e-12, 0.1) == ""  # so small a rate that the weights stay what they are
    row = member.metrics(10**9)
    x_RD = torch.cat([now.activations["h"] for now in batches]).double()
    sae = member.sae().double()
    unexplained = (sae(x_RD) - x_RD).square().sum() / (x_RD - x_RD.mean(0)).square().sum()
    assert row["explained_variance"] == pytest.approx(1 - unexplained.item(), abs=1e-5)
    assert row["l0"] == pytest.approx((sae.encode(x_RD) > 0).sum(1).double().mean().item())
    seen_RD = x_RD / sae.token_scale(x_RD) if scaling == "token" else x_RD * facts.scale
    assert row["over_tokens"] == 3 * B
    error_RD = (sae(x_RD) - x_RD) * (seen_RD.norm(dim=1) / x_RD.norm(dim=1))[:, None]
    assert row["l2_reconstruction_loss"] == pytest.approx(error_RD.square().sum(1).mean().item(), rel=1e-5)
