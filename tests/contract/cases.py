"""What every row of the table of architectures is put through: dictionaries, tasks, activations, members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from kernel_cases import random_weights
from torch import Tensor

from unmix.activations.mask import Mask
from unmix.activations.stream import Batch
from unmix.config import EVERY_TOKEN, MaskConfig, SAEConfig, TrainingConfig
from unmix.config.dictionary import TOPK
from unmix.dictionary import table
from unmix.dictionary.nonlinearities import BatchTopK, Nonlinearity, Weights
from unmix.dictionary.terms import AuxK, Objective, Pass, PreActivation
from unmix.kernels import reference
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Noise, Task
from unmix.training.measure import Facts, measure
from unmix.training.member import Entry, Member, new_member

ARCHITECTURES = tuple(table.ARCHITECTURES)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
both_kernels = pytest.mark.parametrize("kernels", ["auto", "portable"])
"""Those of the processor, and those of every device that has none of its own."""
BANDWIDTH = 1.0  # wide, so that entries lie in it
HOOK = "h"


def config_of(architecture: str, features: int, **keys: Any) -> SAEConfig:
    """The section, without prefixes, AuxK and `preactivation` unless they are asked for; `multi_k` where k is."""
    plain = {"prefixes": [], "auxk": 0.0, "preactivation": 0.0, "bandwidth": BANDWIDTH, "tanh_scale": 1.0}
    if architecture not in TOPK:
        keys = {key: value for key, value in keys.items() if key != "multi_k"}
    return SAEConfig(architecture=architecture, features=features, **plain | keys)


def task_of(
    config: SAEConfig,
    k: float,
    sparsity: float,
    *,
    norm_power: int = 0,
    sigma: float = 0.0,
    auxk: AuxK | None = None,
    dead_N: Tensor | None = None,
    centre_E: Tensor | None = None,
    seed: int = 0,
) -> Task:
    """As a member makes it; `dead_N` are pulled up where `preactivation` says so."""
    noise = Noise(sigma, noise_key(seed, 3)) if sigma else None
    dead: Objective = ((config.auxk_coefficient, auxk),) if auxk else ()
    if config.preactivation_coefficient and dead_N is not None:
        dead = (*dead, (config.preactivation_coefficient, PreActivation(dead_N)))
    objective = table.objective(config, k=k, norm_power=norm_power, sparsity=sparsity, centre_E=centre_E, dead=dead)
    return Task(table.nonlinearity(config, k), objective, noise, config.has_unit_rows)


def weights_of(config: SAEConfig, phi: Nonlinearity, D: int, E: int, seed: int) -> dict[str, Tensor]:
    """Random in float64, the parameters of the nonlinearity too."""
    F, g = config.features, torch.Generator().manual_seed(seed + 1)
    weights = random_weights(D, F, seed, E=E)
    weights |= {name: own.double() + 0.3 * torch.randn(F, generator=g).double() for name, own in phi.start(F).items()}
    phi.constrain(weights)
    if config.has_unit_rows:
        weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    return weights


def noise_of(architecture: str, sigma: float) -> float:
    """The noise, where it may be set: the threshold of a batchtopk would be that of noisy activations."""
    return 0.0 if isinstance(task_of(config_of(architecture, 8), 2, 0.1).phi, BatchTopK) else sigma


def some_prefixes(features: int) -> list[int]:
    """Two or one, below `features`; none of a single feature."""
    return sorted({n for n in (features // 5, features // 2) if 0 < n < features})


def draw(*shape: int, seed: int) -> Tensor:
    """Gaussian, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


# ------------------------------------------------------------------------------------------------------------ members

D, F, TOKENS, K = 12, 40, 128, 5


def batch(number: int, tokens: int = TOKENS, width: int = D) -> Batch:
    """Sparse sums of fixed directions about a mean that is not 0; the same distribution for every number."""
    fixed = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1 + number)
    shape = tokens, 2 * width
    amounts = (0.5 + torch.rand(*shape, generator=g)) * (torch.rand(*shape, generator=g) < 0.15)
    x_BD = amounts @ fixed + 0.1 * torch.randn(tokens, width, generator=g) + 1.0
    return Batch({HOOK: x_BD}, torch.zeros(tokens, dtype=torch.int64), torch.arange(tokens))


def member_of(
    architecture: str,
    *,
    l0: float | None = None,
    mask: MaskConfig = EVERY_TOKEN,
    features: int = F,
    width: int = D,
    kernels: str = "auto",
    training: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Member:
    """A member at its start that is asked for `l0`; where that is None, for l1 = 0.3 or, if it takes a k, for `K`."""
    few = {"prefixes": []} if features < 32 else {}  # for which matryoshka has none of its own
    config = SAEConfig(architecture=architecture, features=features, **few | keys)
    if l0 is None and (config.takes_k or config.has_target):
        l0 = K
    asked = {"l0": [l0]} if l0 else {"l1": [0.3]}
    how = {"kernels": kernels, "selection": "fp32", "dense": "fp32", "border": 0.12}
    settings = TrainingConfig(**asked, **how | (training or {}))
    head, alpha = batch(0, width=width), 0.0 if l0 else 0.3
    facts: Facts = measure(head, HOOK, config, settings, alpha, [])
    kept = Mask(mask, [0], facts.median_norm)
    entry = Entry("m", HOOK, "", None if l0 else alpha, l0)
    return new_member(entry, width, config=config, training=settings, facts=facts, mask=kept, head=head)


def train(member: Member, steps: int, lr: float = 1e-2) -> Member:
    """So many steps, none of which goes wrong."""
    for step in range(steps):
        now = batch(100 + step, width=member.start.width)
        assert member.update(now, step, lr, member.coefficient) == ""
    return member


def as_trained(member: Member, x_BD: Tensor) -> tuple[Pass, Weights, Nonlinearity]:
    """Of scaled x, what its own form that takes each token by itself makes, in float64; its weights; its phi."""
    weights = {name: weight.double() for name, weight in member.weights.items()}
    phi, own = member.start.nonlinearity.alone(weights, member.threshold)
    x_BD = x_BD.double()
    return reference.forward(x_BD, x_BD, own, Task(phi, ())), own, phi
