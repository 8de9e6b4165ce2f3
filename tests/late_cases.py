"""A member that is trained at once and one that is trained late, on batches that the mask takes tokens from."""

from __future__ import annotations

from typing import Any

import torch

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import SAEConfig, TrainingConfig
from unmix.training.late import Late
from unmix.training.measure import measure
from unmix.training.member import Entry, Member, new_member
from unmix.training.schedule import Schedule

D, F, B = 6, 24, 32
STEPS = 30
SCHEDULE = Schedule(STEPS, 3, 3, 5)
TAKES_K = ("topk", "abstopk", "batchtopk", "matryoshka")


def batch(number: int) -> Batch:
    """A token in it is too long for the mask, and another of the kind that is left out."""
    g = torch.Generator().manual_seed(number)
    x_BD = 3 * torch.randn(B, D, generator=g) + torch.arange(D)
    x_BD[number % B] *= 40
    return Batch({"h": x_BD}, torch.randint(0, 9, (B,), generator=g), torch.zeros(B, dtype=torch.int64))


def few(found: Batch, tokens: int) -> Batch:
    """The first of its tokens."""
    return Batch({"h": found.activations["h"][:tokens]}, found.token_ids_B[:tokens], found.positions_B[:tokens])


def spoiled(number: int, value: float) -> Batch:
    """Every activation times the value."""
    found = batch(number)
    return found._replace(activations={"h": found.activations["h"] * value})


def member_of(architecture: str = "relu", l0: float | None = None, **keys: Any) -> Member:
    """Of the portable kernels, if `kernels` is not given; keys are of `sae` or of `training`."""
    l0 = 4.0 if architecture in (*TAKES_K, "jumprelu_quadratic") else l0
    training: dict[str, Any] = {"lr": 0.01, "kernels": "portable", "mask": {"special": True, "norm_above": 10.0}}
    training |= {key: keys.pop(key) for key in [*keys] if key in TrainingConfig.model_fields}
    keys |= {"prefixes": [6, 12]} if architecture == "matryoshka" else {}
    training |= {"l1": [0.3]} if l0 is None else {"l0": [l0]}
    config = SAEConfig(**{"features": F, "architecture": architecture, **keys})
    how = TrainingConfig.model_validate(training)
    facts = measure(batch(0), "h", config, how, 0.3, [0])
    entry = Entry("m", "h", "", 0.3 if l0 is None else None, l0)
    mask = Mask(how.mask, [0], facts.median_norm)
    return new_member(entry, D, config=config, training=how, facts=facts, mask=mask, head=batch(0))


def at_once(member: Member, batches: dict[int, Batch]) -> list[str]:
    """Train it, every number read as soon as there is one; answers what was wrong."""
    said = []
    for step, one in batches.items():
        l1 = SCHEDULE.l1_at(step, member.coefficient)
        said.append(member.update(one, step, SCHEDULE.lr_at(step, member.training.lr), l1))
    return [line for line in said if line]


def in_time(member: Member, batches: dict[int, Batch]) -> list[str]:
    """Train it as a run does."""
    taking = Late(member, SCHEDULE)
    said = [line for step, one in batches.items() for line in taking.take(step, one)]
    return said + taking.settle()


def plain() -> dict[int, Batch]:
    """Batches in which nothing is wrong."""
    return {step: batch(step + 1) for step in range(STEPS)}
