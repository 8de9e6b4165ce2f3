"""A training loss and its gradient beside those of dictionary-learning 0.1.0, from the same weights on the same batch.

Its trainers' `loss` is the mean over the tokens of sums over the width, as ours. All but jumprelu take b_dec from x
first. It casts to float32 here and there; for the comparison it is kept from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from contract.cases import BANDWIDTH, config_of, task_of
from contract.peers import (
    DEAD_N,
    TOLERANCE,
    WIDTHS,
    D,
    F,
    K,
    apart,
    assert_same,
    assert_same_pass,
    call_dead,
    fill,
    gated_form,
    normal_form,
    ours,
    theirs,
    topk_task,
    x_of,
)
from torch import Tensor

from unmix.kernels import reference
from unmix.kernels.task import Task, Weights

pytestmark = pytest.mark.peers
LONG = 10**7
"""Tokens after which its trainers call a feature dead."""


@pytest.fixture(autouse=True)
def _in_double(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def trainer_of(module: str, name: str, **keys: Any) -> tuple[Any, dict[str, Tensor]]:
    """(its trainer in float64, without warm-ups; its weights, drawn at random)."""
    found = pytest.importorskip(f"dictionary_learning.trainers.{module}", reason="dictionary-learning is not installed")
    import nnsight

    nnsight.DEFAULT_PATCHER.__exit__(None, None, None)  # which dictionary-learning imports, and which patches torch
    basics = {"steps": 10, "activation_dim": D, "dict_size": F, "layer": 0, "lm_name": "", "device": "cpu"}
    trainer = getattr(found, name)(**basics, warmup_steps=0, **keys)
    trainer.ae.double()
    return trainer, fill(trainer.ae)


def linear(theirs: Mapping[str, Tensor], centred: bool = True) -> Weights:
    """Ours of the classes that are made of two `nn.Linear`."""
    b_dec = theirs["b_dec" if "b_dec" in theirs else "bias"]
    return normal_form(theirs["encoder.weight"].T, theirs["encoder.bias"], theirs["decoder.weight"].T, b_dec, centred)


def four(theirs: Mapping[str, Tensor], centred: bool = True) -> Weights:
    """Ours of those whose names are ours."""
    return normal_form(**theirs, centred=centred)


@pytest.mark.parametrize("name", ["StandardTrainerAprilUpdate", "StandardTrainer"])
def test_relu(name):
    """‖x̂ - x‖² + l1 Σ f_i w_i, w_i = ‖W_dec_i‖ in the first, April 2024; in the second 1, as are its rows."""
    x_BD = x_of()
    trainer, _ = trainer_of("standard", name, l1_penalty=0.3, sparsity_warmup_steps=None)
    decoder = "free" if name == "StandardTrainerAprilUpdate" else "unit_norm"
    task = task_of(config_of("relu", F, decoder=decoder), 0, 0.3)
    log = trainer.loss(x_BD, 0, logging=True)
    assert_same_pass(trainer.ae, linear, x_BD, task, log.f, log.x_hat)
    assert_same(ours(trainer.ae, linear, x_BD, task), theirs(trainer.ae, trainer.loss(x_BD, 0)))


GROUPS = {"group_fractions": [0.2, 0.35, 0.45]}  # which make `WIDTHS`
KINDS: dict[str, tuple[str, str, dict[str, Any], Any, int]] = {
    "topk": ("top_k", "TopKTrainer", {}, linear, 1),
    "batchtopk": ("batch_top_k", "BatchTopKTrainer", {}, linear, 1),
    "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer", GROUPS, four, len(WIDTHS)),
}
"""Its module and class; more of its configuration; how its weights are brought to ours; P, the number of prefixes."""


@pytest.mark.parametrize("dead", [0, 2, 5])
@pytest.mark.parametrize("architecture", KINDS)
def test_topk_kinds(architecture, dead):
    """Rows have length 1, as its trainers keep them: it ranks features by z alone, ours by their contribution.

    AuxK is over the D/2 dead features with the largest z, through a ReLU, and divided by the variance of the error:
    mean ‖e - ê‖² / mean ‖e - mean e‖² (openai/sparse_autoencoder, kernels.py). The error of its matryoshka is the mean
    over P prefixes, as ours, and divided by P once more; the sum in arXiv 2503.17547.
    """
    x_BD, (module, name, keys, to_ours, P) = x_of(), KINDS[architecture]
    trainer, weights = trainer_of(module, name, k=K, auxk_alpha=0.7, **keys)
    call_dead(to_ours(weights, centred=False), bias=0.0)
    trainer.num_tokens_since_fired[list(DEAD_N[:dead])] = LONG
    normal, plain = to_ours(weights), topk_task(architecture, K)
    e_BD = x_BD - reference.forward(x_BD, x_BD, normal, plain).y_hat_BE
    variance = (e_BD - e_BD.mean(0)).square().sum(1).mean().item()
    task = topk_task(architecture, K, dead, auxk=P * 0.7 / variance)
    mean_loss = P * trainer.loss(x_BD, 0)
    assert trainer.dead_features == dead
    assert_same(ours(trainer.ae, to_ours, x_BD, task), theirs(trainer.ae, mean_loss))
    log = trainer.loss(x_BD, 0, logging=True)
    assert_same_pass(trainer.ae, to_ours, x_BD, task, log.f, log.x_hat)


def test_gated():
    """‖x̂ - x‖² + λ Σ g_i + ‖g W_dec + b_dec - x‖², g = max(z, 0), the last with the decoder frozen (2404.16014, 3.2.2).

    Our penalty is Σ g_i ‖W_dec_i‖. Rows have length 1, so it is the same, but for a pull along the rows, which both
    take out of the gradient before an update.
    """
    x_BD = x_of()
    trainer, weights = trainer_of("gdm", "GatedSAETrainer", l1_penalty=0.3, sparsity_warmup_steps=None)
    W_dec_DF = weights["decoder.weight"]
    W_dec_DF /= W_dec_DF.norm(dim=0)

    def to_ours(theirs: Mapping[str, Tensor]) -> Weights:
        W_enc, W_dec = theirs["encoder.weight"].T, theirs["decoder.weight"].T
        b_gate, r_mag, b_mag = theirs["gate_bias"], theirs["r_mag"], theirs["mag_bias"]
        return gated_form(W_enc, b_gate, r_mag, b_mag, W_dec, theirs["decoder_bias"], centred=True)

    task = task_of(config_of("gated", F), 0, 0.3)
    log = trainer.loss(x_BD, 0, logging=True)
    assert_same_pass(trainer.ae, to_ours, x_BD, task, log.f, log.x_hat)
    mine, them = ours(trainer.ae, to_ours, x_BD, task), theirs(trainer.ae, trainer.loss(x_BD, 0))
    for found in (*mine, them):
        gradient_DF = found.gradients["decoder.weight"]
        gradient_DF -= W_dec_DF * (gradient_DF * W_dec_DF).sum(0)
    assert_same(mine, them)


TARGET = 4.0


def raw(theirs: Mapping[str, Tensor]) -> Weights:
    """Ours of its jumprelu, which takes no b_dec from x."""
    return four(theirs, centred=False)


def jumprelu(penalty: float) -> tuple[Any, dict[str, Tensor]]:
    """Its trainer with this coefficient."""
    keys = {"bandwidth": BANDWIDTH, "target_l0": TARGET, "sparsity_warmup_steps": None}
    return trainer_of("jumprelu", "JumpReluTrainer", sparsity_penalty=penalty, **keys)


def jumprelu_task(coefficient: float) -> Task:
    """‖x̂ - x‖² and so many times L0."""
    return task_of(config_of("jumprelu", F, bandwidth=BANDWIDTH), 0, coefficient)


def test_jumprelu_without_penalty():
    """‖x̂ - x‖², straight through the jump in θ: df/dθ = -(θ/ε) K((z - θ)/ε) (arXiv 2407.14435, equation 11)."""
    x_BD, task = x_of(), jumprelu_task(0.0)
    trainer, weights = jumprelu(0.0)
    weights["threshold"].abs_()
    log = trainer.loss(x_BD, 0, logging=True)
    assert_same_pass(trainer.ae, raw, x_BD, task, log.f, log.recon)
    assert_same(ours(trainer.ae, raw, x_BD, task), theirs(trainer.ae, trainer.loss(x_BD, 0)))


@pytest.mark.parametrize("theta", [0.7, 0.3], ids=["above half a bandwidth", "below"])
def test_the_penalty_of_jumprelu(theta):
    """They differ in dθ: its step is taken of f, after the jump, where a z just below θ is 0 already (its issue 55).

    The penalty is p(L0) = λ (L0 / t - 1)², L0 the mean of the batch. The step's slope is that of H(z - θ), z before the
    jump, -(1/ε) K((z - θ)/ε) (arXiv 2407.14435, equations 10 and 12): the central difference of the number of active
    features over one bandwidth,

        dL0/dθ_i = mean_B ([z_i > θ_i + ε/2] - [z_i > θ_i - ε/2]) / ε

    Its trainer counts the half above θ; and where θ < ε/2, all that the jump took away, however far below.
    """
    x_BD = x_of()
    trainer, weights = jumprelu(0.3)
    weights["threshold"].fill_(theta)
    z_BF = x_BD @ weights["W_enc"] + weights["b_enc"]

    def active_F(shift: float) -> Tensor:
        return (z_BF > theta + shift).double().mean(0)

    l0 = active_F(0).sum().item()
    penalty, slope = 0.3 * (l0 / TARGET - 1) ** 2, 2 * 0.3 * (l0 / TARGET - 1) / TARGET  # p, dp/dL0
    mine = ours(trainer.ae, raw, x_BD, jumprelu_task(slope))
    without = ours(trainer.ae, raw, x_BD, jumprelu_task(0.0))
    them = theirs(trainer.ae, trainer.loss(x_BD, 0))
    assert_same([found._replace(loss=found.loss - slope * l0 + penalty) for found in mine], them, but=("threshold",))

    right_F = slope * (active_F(BANDWIDTH / 2) - active_F(-BANDWIDTH / 2)) / BANDWIDTH
    for found, plain in zip(mine, without, strict=True):
        assert apart(found.gradients["threshold"] - plain.gradients["threshold"], right_F) < TOLERANCE
    counted_BF = (z_BF > theta) & (z_BF < theta + BANDWIDTH / 2) | (z_BF <= theta) & (theta < BANDWIDTH / 2)
    their_F = -slope * counted_BF.double().mean(0) / BANDWIDTH
    assert apart(them.gradients["threshold"] - without[0].gradients["threshold"], their_F) < TOLERANCE
    ratio = (their_F.sum() / right_F.sum()).item()
    assert ratio < 0.7 if theta > BANDWIDTH / 2 else ratio > 1.5
