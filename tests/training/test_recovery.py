"""Known features, mixed, and found again by the default recipe."""

from collections.abc import Iterator

import pytest
import torch

from unmix import config
from unmix.activations.mask import Mask
from unmix.activations.stream import NO_WIDTHS, Batch
from unmix.training.loop import train
from unmix.training.manifest import sweep_schedule
from unmix.training.measure import measure
from unmix.training.member import Entry, new_member


class Mixture:
    """x = Σ a_i d_i over 96 unit directions in 48 dimensions, each on 4 % of the tokens, a in [0.5, 1.5]."""

    widths = {"h": 48}  # noqa: RUF012
    target_widths = NO_WIDTHS
    batch_tokens = chunk_tokens = 1024
    size = 10**9

    def __init__(self, true_features: int = 96) -> None:
        directions = torch.randn(true_features, 48, generator=torch.Generator().manual_seed(0))
        self.directions_GD = directions / directions.norm(dim=1, keepdim=True)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        for step in range(first, last):
            g = torch.Generator().manual_seed(step + 1)
            G = len(self.directions_GD)
            present = torch.rand(self.batch_tokens, G, generator=g) < 0.04
            a_BG = present * (0.5 + torch.rand(self.batch_tokens, G, generator=g))
            nowhere = torch.zeros(self.batch_tokens, dtype=torch.int64)
            yield Batch({"h": a_BG @ self.directions_GD}, nowhere, nowhere)

    def head(self) -> Batch:
        return next(self.batches(0, 1))


@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
def test_relu_finds_the_features_of_a_mixture(decoder):
    recipe = config.load(
        None,
        {
            "sae.features": 192,
            "sae.decoder": decoder,
            "training.l1": [5.0],
            "training.steps": 2500,
            "training.lr": 1e-3,
            "training.lr_warmup_steps": 200,
            "training.decay_fraction": 0.0,
        },
    )
    source = Mixture()
    facts = measure(source.head(), "h", recipe.sae, recipe.training, 5.0, [])
    member = new_member(
        Entry("l1-5", "h", "", 5.0),
        48,
        config=recipe.sae,
        training=recipe.training,
        facts=facts,
        mask=Mask(recipe.training.mask, [], facts.median_norm),
    )
    train(
        [member],
        source,
        sweep_schedule(recipe),
        first=0,
        logged=range(0, 100_000, 500),
        checkpoint_every=10**9,
        dead_after_tokens=10**6,
        log=lambda rows: None,
        save=lambda step: None,
    )
    W_FD = member.sae().W_dec.detach()
    cosine_GF = source.directions_GD @ (W_FD / W_FD.norm(dim=1, keepdim=True)).T
    assert cosine_GF.max(dim=1).values.mean() >= 0.9
