"""The architectures: from a name to what it is made of.

    name                 nonlinearity   what it is trained for, beside the squared error
    relu                 Relu           L1, weighed by the decoder's norms (April 2024)
    tanh_relu            TanhRelu       L1
    topk                 TopK           nothing: k says how many
    abstopk              AbsTopK        nothing
    batchtopk            BatchTopK      nothing
    matryoshka           BatchTopK      nothing; the error is the mean over prefixes of the features
    jumprelu             JumpRelu       L0, straight through the jump (July 2024)
    jumprelu_tanh        JumpRelu       Tanh, about a count; the jump passes a slope to z too (January 2025)
    jumprelu_quadratic   JumpRelu       L0Target: the square of L0 less what is asked for (Gemma Scope 2)
    gated                Gated          L1 of the gate, and an error of what the gate alone would give

A new one is a nonlinearity or a term, and a row here; how it is written to disk stands in `files`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from unmix.config import SAEConfig
from unmix.dictionary.nonlinearities import (
    AbsTopK,
    BatchTopK,
    Gated,
    JumpRelu,
    Nonlinearity,
    Relu,
    TanhRelu,
    TopK,
)
from unmix.dictionary.terms import (
    L0,
    L1,
    Gate,
    GateError,
    L0Target,
    MoreActive,
    Objective,
    SquaredError,
    Tanh,
    Term,
)

MORE = 4
"""Multi-TopK keeps so many times k features (Gao et al. 2024, A.2)."""


class Row(NamedTuple):
    """An architecture."""

    nonlinearity: Callable[[SAEConfig, float], Nonlinearity]
    """From the configuration and k, the L0 that is asked for."""
    penalty: Callable[[SAEConfig, float], Term] | None
    """The term whose coefficient sets how sparse it is; none where k does."""
    more: Callable[[SquaredError], Objective] = lambda error: ()
    """What else it is trained for, from its squared error."""


def _jump(sae: SAEConfig, k: float) -> JumpRelu:
    return JumpRelu(sae.bandwidth, sae.initial_threshold)


ARCHITECTURES: dict[str, Row] = {
    "relu": Row(lambda sae, k: Relu(), lambda sae, k: L1(sae.weigh_by_norm)),
    "tanh_relu": Row(lambda sae, k: TanhRelu(), lambda sae, k: L1(sae.weigh_by_norm)),
    "topk": Row(lambda sae, k: TopK(int(k)), None),
    "abstopk": Row(lambda sae, k: AbsTopK(int(k)), None),
    "batchtopk": Row(lambda sae, k: BatchTopK(k), None),
    "matryoshka": Row(lambda sae, k: BatchTopK(k), None),
    "jumprelu": Row(_jump, lambda sae, k: L0(sae.bandwidth)),
    "jumprelu_tanh": Row(lambda sae, k: replace(_jump(sae, k), to_input=True), lambda sae, k: Tanh(sae.tanh_scale)),
    "jumprelu_quadratic": Row(_jump, lambda sae, k: L0Target(k, sae.bandwidth)),
    "gated": Row(lambda sae, k: Gated(), lambda sae, k: Gate(), lambda error: ((1.0, GateError(error)),)),
}


def nonlinearity(config: SAEConfig, k: float = 0.0) -> Nonlinearity:
    """phi of a dictionary in training."""
    return ARCHITECTURES[config.architecture].nonlinearity(config, k)


def counts(config: SAEConfig) -> bool:
    """Whether the penalty counts active features, or about so: it does not grow with the activations."""
    penalty = ARCHITECTURES[config.architecture].penalty
    return penalty is not None and isinstance(penalty(config, 1.0), L0 | L0Target | Tanh)


def objective(
    config: SAEConfig,
    *,
    k: float,
    norm_power: int,
    sparsity: float | Tensor,
    prefixes: tuple[int, ...] | None = None,
    centre_E: Tensor | None = None,
    dead: Objective = (),
) -> Objective:
    """What it is trained for, with `sparsity` the coefficient of its penalty in this step.

    `k` is the L0 asked for; `prefixes`, those of this step where they are drawn anew; `centre_E`, what was taken away
    from what is to be given; `dead`, what revives features.
    """
    row = ARCHITECTURES[config.architecture]
    error = SquaredError(norm_power, config.all_prefixes if prefixes is None else prefixes, centre_E)
    penalty: Objective = ((sparsity, row.penalty(config, k)),) if row.penalty else ()
    more: Objective = ()
    if config.multi_k:
        more = ((config.multi_k, MoreActive(nonlinearity(config, MORE * k), error)),)
    return ((1.0, error), *penalty, *row.more(error), *more, *dead)
