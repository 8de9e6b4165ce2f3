"""Every legal combination of axes keeps the same contracts: resume, folding, files, no noise outside training."""

import itertools
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from run_pairs import same

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import SAEConfig, TrainingConfig
from unmix.dictionary.files import save_sae
from unmix.interop.load import load_sae
from unmix.training import checkpoint
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member

D, F, B = 6, 10, 24
AXES = {
    "architecture": ["relu", "tanh_relu"],
    "noise": [0.0, 0.7],
    "decoder": ["free", "unit_norm"],
    "penalty": ["auto", "decoder_norm", "plain"],
    "scaling": ["none", "dataset", "token"],
    "centre": ["mean", "start", "none"],
}
OBJECTIVES = [
    {"norm_power": k, "l1_norm_power": p, "mask": mask}
    for (k, p), mask in itertools.product(
        [(0, 0.0), (1, "matched"), (2, "matched")], [{}, {"special": True, "norm_above": 3.0}]
    )
]


def batch(number: int) -> Batch:
    g = torch.Generator().manual_seed(number)
    x_BD = 3 * torch.randn(B, D, generator=g) + torch.arange(D)
    x_BD[0] *= 40
    return Batch({"h": x_BD}, torch.randint(0, 9, (B,), generator=g), torch.zeros(B, dtype=torch.int64))


def legal() -> list[tuple[SAEConfig, TrainingConfig]]:
    found = []
    for values in itertools.product(*AXES.values()):
        try:
            config = SAEConfig(features=F, **dict(zip(AXES, values, strict=True)))
        except ValidationError:
            continue
        found += [(config, TrainingConfig(lr=0.01, **objective)) for objective in OBJECTIVES]
    return found


def member_of(config: SAEConfig, training: TrainingConfig) -> Member:
    facts = measure(batch(0), "h", config, training, 0.5, [0])
    mask = Mask(training.mask, [0], facts.median_norm)
    entry = Entry("m", "h", "", 0.5)
    return new_member(entry, D, config=config, training=training, facts=facts, mask=mask, head=batch(0))


def train(member: Member, first: int, last: int) -> None:
    for step in range(first, last):
        member.update(batch(step), step, 0.01, member.facts.coefficient)


def test_the_illegal_ones_are_those_with_a_penalty_that_costs_nothing():
    per_sae = len(legal()) // len(OBJECTIVES)
    everything = len(list(itertools.product(*AXES.values())))
    assert everything - per_sae == 2 * 3 * 3  # relu, free, plain: for each noise, scaling and centre


@pytest.mark.parametrize("objective", range(len(OBJECTIVES)))
def test_combinations_resume_fold_and_come_back_from_disk(objective: int, tmp_path: Path):
    # a third for each objective, another one for the next: every configuration with two of them
    for number, (config, training) in enumerate(legal()[objective :: len(OBJECTIVES)][objective % 3 :: 3]):
        said = f"{config!r} {training!r}"
        member = member_of(config, training)
        train(member, 0, 4)
        facts = {"model": "m", "context": 8, "metadata": {}}
        folder = tmp_path / str(number)
        checkpoint.save(member, folder, 4, facts)
        train(member, 4, 7)

        again = member_of(config, training)
        checkpoint.load(again, checkpoint.step_folder(folder, 4))
        train(again, 4, 7)
        assert same(member.weights, again.weights), said
        assert member.metrics(10) == again.metrics(10), said

        x_BD = batch(99).activations["h"]
        seen_BD = member.view.x(x_BD)
        centre_D = 0 if member.view.centre_D is None else member.view.centre_D
        scale_B1 = (seen_BD + centre_D).norm(dim=1, keepdim=True) / x_BD.norm(dim=1, keepdim=True)
        z_BF = seen_BD @ member.weights["W_enc"] + member.weights["b_enc"]  # no noise
        f_BF = torch.relu(z_BF) if config.architecture == "relu" else torch.tanh(torch.relu(z_BF))
        x_hat_BD = (f_BF @ member.weights["W_dec"] + member.weights["b_dec"] + centre_D) / scale_B1
        sae = member.sae()
        torch.testing.assert_close(sae.encode(x_BD), f_BF, rtol=1e-4, atol=1e-5, msg=said)
        torch.testing.assert_close(sae(x_BD), x_hat_BD, rtol=1e-4, atol=1e-4, msg=said)
        torch.testing.assert_close(sae(x_BD.reshape(2, B // 2, D)).reshape(B, D), sae(x_BD))

        save_sae(sae, folder / "sae", model="m", hook="resid_post.0", context=8, more={})
        loaded = load_sae(folder / "sae")
        assert same(loaded.weights, sae.weights), said
        torch.testing.assert_close(loaded(x_BD), sae(x_BD), rtol=1e-4, atol=1e-4, msg=said)
        if config.has_unit_rows:
            torch.testing.assert_close(member.weights["W_dec"].norm(dim=1), torch.ones(F))
