"""One token in a hundred is a hundred times as long as the median: what that does to an SAE, and what cures it."""

import pytest
import torch

from unmix import config
from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.dictionary.terms import token_weights
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member

D, DIRECTIONS, B, STEPS = 24, 40, 512, 600
CURES = {
    "plain": {"training.mask": "none"},
    "divided by ||x||²": {"training.mask": "none", "training.norm_power": 2, "training.l1_norm_power": "matched"},
    "left alone by default": {},
    "each token scaled": {"training.mask": "none", "sae.scaling": "token"},
}


def batch(number: int, share: float = 0.01) -> tuple[Batch, torch.Tensor]:
    """A mixture of unit directions, a few a token; the planted tokens, a hundred times as long, are marked."""
    directions_GD = torch.nn.functional.normalize(
        torch.randn(DIRECTIONS, D, generator=torch.Generator().manual_seed(0)), dim=1
    )
    g = torch.Generator().manual_seed(number + 1)
    a_BG = (torch.rand(B, DIRECTIONS, generator=g) < 0.08) * (0.5 + torch.rand(B, DIRECTIONS, generator=g))
    x_BD = a_BG @ directions_GD + 0.02 * torch.randn(B, D, generator=g)
    planted_B = torch.rand(B, generator=g) < share
    x_BD[planted_B] = (
        100
        * x_BD.norm(dim=1).median()
        * torch.nn.functional.normalize(torch.randn(int(planted_B.sum()), D, generator=g), dim=1)
    )
    nowhere = torch.zeros(B, dtype=torch.int64)
    return Batch({"h": x_BD}, nowhere, nowhere), planted_B


def reconstruction_terms(member: Member, now: Batch) -> torch.Tensor:
    """||x̂ - x||² / ||x||^k of every token in the member's own units; 0 for what it masks."""
    x_BD = now.activations["h"]
    seen_BD, weights = member.view.x(x_BD), member.weights
    f_BF = torch.relu(seen_BD @ weights["W_enc"] + weights["b_enc"])
    error_BD = f_BF @ weights["W_dec"] + weights["b_dec"] - seen_BD
    kept_B = member.mask.keeps(now.token_ids_B, x_BD)
    return error_BD.square().sum(1) * token_weights(member.view.scaled_x(x_BD), member.training.norm_power) * kept_B


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[float, float]]:
    """Kind -> (planted tokens' share of all reconstruction loss in training, explained variance of the others)."""
    found = {}
    for name, overrides in CURES.items():
        plain = {"sae.features": 96, "sae.architecture": "relu", "sae.centre": "none", "training.clip_norm": None}
        recipe = config.load(None, plain | {"training.l1": [1.0], **overrides})
        head, _ = batch(0)
        facts = measure(head, "h", recipe.sae, recipe.training, 0.3 if "divided" not in name else 0.05, [])
        mask = Mask(recipe.training.mask, [], facts.median_norm)
        member = new_member(
            Entry(name, "h", "", 1.0), D, config=recipe.sae, training=recipe.training, facts=facts, mask=mask
        )
        spent = on_planted = 0.0
        for step in range(STEPS):
            now, planted_B = batch(step)
            if step % 10 == 0:
                terms_B = reconstruction_terms(member, now)
                spent, on_planted = spent + terms_B.sum().item(), on_planted + terms_B[planted_B].sum().item()
            member.update(now, step, 3e-3, facts.coefficient)
        held_out, planted_B = batch(10**6)
        x_BD = held_out.activations["h"][~planted_B]
        error = (member.sae()(x_BD) - x_BD).square().sum() / (x_BD - x_BD.mean(0)).square().sum()
        found[name] = (on_planted / spent, 1 - error.item())
    return found


def test_the_plain_sae_spends_most_of_its_loss_on_the_planted_tokens(outcomes):
    share, variance = outcomes["plain"]
    assert share > 0.9
    assert variance < outcomes["left alone by default"][1]  # and has less left for the others


@pytest.mark.parametrize("cure", [name for name in CURES if name != "plain"])
def test_each_cure_gives_the_loss_back_to_the_other_tokens(outcomes, cure):
    share, variance = outcomes[cure]
    assert share < 0.1
    assert variance > 0.8


# ------------------------------------------------------------------------------------------------ profiles of norms

PROFILES = {
    "GPT-2-like: position 0 at 30 times": (0.06, 30.0, 1.0),
    "Qwen-like: several kinds of token at 100 times": (0.01, 100.0, 1.0),
    "Gemma-like, early: long activations all over": (0.02, 150.0, 40.0),
    "Gemma-like, late: longer still, the sinks as long as before": (0.02, 15.0, 400.0),
}


def of_profile(number: int, share: float, times: float, unit: float, sinks: int = 3) -> tuple[Batch, torch.Tensor]:
    """The same tokens in every profile, `unit` times as long; a share of them replaced by one of a few long vectors."""
    clean, _ = batch(number, share=0.0)
    x_BD = unit * clean.activations["h"]
    g = torch.Generator().manual_seed(number + 10**6)
    planted_B = torch.rand(B, generator=g) < share
    directions = torch.nn.functional.normalize(torch.randn(sinks, D, generator=torch.Generator().manual_seed(7)), dim=1)
    which = torch.randint(0, sinks, (int(planted_B.sum()),), generator=g)
    x_BD[planted_B] = times * x_BD.norm(dim=1).median() * directions[which]
    return Batch({"h": x_BD}, clean.token_ids_B, clean.positions_B), planted_B


def trained_by_default(share: float, times: float, unit: float) -> float:
    """Explained variance of ordinary held-out tokens by a dictionary of the default recipe."""
    recipe = config.load(None, {"sae.features": 96, "training.steps": 400, "training.l1": [1.0]})
    head, _ = of_profile(0, share, times, unit)
    facts = measure(head, "h", recipe.sae, recipe.training, 0.3, [])
    member = new_member(
        Entry("m", "h", "", 1.0),
        D,
        config=recipe.sae,
        training=recipe.training,
        facts=facts,
        mask=Mask(recipe.training.mask, [], facts.median_norm),
        head=head,
    )
    for step in range(recipe.training.steps):
        member.update(of_profile(step, share, times, unit)[0], step, recipe.training.lr, facts.coefficient)
    held_out, _ = of_profile(10**6, 0.0, times, unit)
    x_BD = held_out.activations["h"]
    error = (member.sae()(x_BD) - x_BD).square().sum() / (x_BD - x_BD.mean(0)).square().sum()
    return 1 - error.item()


@pytest.mark.parametrize("profile", PROFILES)
def test_by_default_ordinary_tokens_are_explained_as_if_there_were_no_outliers(profile):
    share, times, unit = PROFILES[profile]
    clean = trained_by_default(0.0, times, unit)
    assert clean > 0.8
    assert trained_by_default(share, times, unit) == pytest.approx(clean, abs=0.01)
