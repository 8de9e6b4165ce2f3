"""The architectures: from a name to what it is made of.

    name         nonlinearity   what it is trained for, beside the squared error
    relu         Relu           L1, weighed by the decoder's norms (April 2024)
    tanh_relu    TanhRelu       L1
    topk         TopK           nothing: k says how many
    batchtopk    BatchTopK      nothing
    matryoshka   BatchTopK      nothing; the error is the mean over prefixes of the features
    jumprelu     JumpRelu       L0, straight through the jump
    gated        Gated          L1 of the gate, and an error of what the gate alone would give

A new one is a nonlinearity or a term, and a row here; how it is written to disk stands in `files`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unmix.config import SAEConfig
from unmix.dictionary.nonlinearities import BatchTopK, Gated, JumpRelu, Nonlinearity, Relu, TanhRelu, TopK
from unmix.dictionary.terms import L0, L1, AuxK, Gate, GateError, Objective, SquaredError, Term


class Row(NamedTuple):
    """An architecture."""

    nonlinearity: Callable[[SAEConfig, float], Nonlinearity]
    """From the configuration and k."""
    penalty: Callable[[SAEConfig], Term] | None
    """The term whose coefficient sets how sparse it is; none where k does."""
    more: Objective = ()


ARCHITECTURES: dict[str, Row] = {
    "relu": Row(lambda sae, k: Relu(), lambda sae: L1(sae.weigh_by_norm)),
    "tanh_relu": Row(lambda sae, k: TanhRelu(), lambda sae: L1(sae.weigh_by_norm)),
    "topk": Row(lambda sae, k: TopK(int(k)), None),
    "batchtopk": Row(lambda sae, k: BatchTopK(k), None),
    "matryoshka": Row(lambda sae, k: BatchTopK(k), None),
    "jumprelu": Row(lambda sae, k: JumpRelu(sae.bandwidth, sae.initial_threshold), lambda sae: L0(sae.bandwidth)),
    "gated": Row(lambda sae, k: Gated(), lambda sae: Gate(), ((1.0, GateError()),)),
}


def nonlinearity(config: SAEConfig, k: float = 0.0) -> Nonlinearity:
    """phi of a dictionary in training."""
    return ARCHITECTURES[config.architecture].nonlinearity(config, k)


def counts(config: SAEConfig) -> bool:
    """Whether the penalty counts active features: it does not grow with the activations."""
    penalty = ARCHITECTURES[config.architecture].penalty
    return penalty is not None and isinstance(penalty(config), L0)


def objective(config: SAEConfig, *, norm_power: int, sparsity: float, auxk: AuxK | None = None) -> Objective:
    """What it is trained for, with `sparsity` the coefficient of its penalty in this step; dead features by `auxk`."""
    row = ARCHITECTURES[config.architecture]
    penalty: Objective = ((sparsity, row.penalty(config)),) if row.penalty else ()
    dead: Objective = ((config.auxk_coefficient, auxk),) if auxk else ()
    return ((1.0, SquaredError(norm_power, config.all_prefixes)), *penalty, *row.more, *dead)
