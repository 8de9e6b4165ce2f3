"""A training loss and its gradient beside those of sae-lens 6.54.12, from the same weights on the same batch.

Both take the mean over the tokens of sums over the width. Their `apply_b_dec_to_input` takes b_dec from x first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from contract.cases import BANDWIDTH, config_of, task_of
from contract.peers import (
    DEAD_N,
    K_AUX,
    TOLERANCE,
    WIDTHS,
    B,
    D,
    F,
    Found,
    K,
    apart,
    assert_same,
    assert_same_pass,
    by_autograd,
    call_dead,
    fill,
    gated_form,
    normal_form,
    ours,
    theirs,
    topk_task,
    x_of,
)
from torch import Tensor, nn

from unmix.dictionary.nonlinearities import BatchTopK, row_norms
from unmix.dictionary.terms import PreActivation
from unmix.kernels import reference

pytestmark = pytest.mark.peers
centring = pytest.mark.parametrize("centred", [True, False], ids=["b_dec from x", "raw x"])


def made(kind: str, centred: bool, **keys: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """(their training class in float64; its weights, drawn at random)."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
        d_in=D, d_sae=F, dtype="float64", apply_b_dec_to_input=centred, **keys
    )
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
    if kind == "JumpReLU":
        sae.threshold = nn.Parameter(sae.threshold.double())  # which it holds in float32
    return sae, fill(sae)


def trained(sae: nn.Module, x_BD: Tensor, dead_N: tuple[int, ...] = (), **coefficients: float) -> Any:
    """Their forward pass in training, with the features that are called dead."""
    from sae_lens.saes.sae import TrainStepInput

    dead_F = torch.zeros(F, dtype=torch.bool)
    dead_F[list(dead_N)] = True
    return sae.training_forward_pass(TrainStepInput(x_BD, coefficients, dead_F, 0, False))


def four(weights: Any, centred: bool) -> Any:
    """Ours of theirs, whose names are ours."""
    return normal_form(**weights, centred=centred)


@centring
def test_relu(centred):
    """‖x̂ - x‖² + l1 Σ f_i ‖W_dec_i‖: April 2024."""
    x_BD, to_ours = x_of(), partial(four, centred=centred)
    sae, _ = made("Standard", centred)
    task = task_of(config_of("relu", F), 0, 0.3)
    out = trained(sae, x_BD, l1=0.3)
    assert_same_pass(sae, to_ours, x_BD, task, out.feature_acts, out.sae_out)
    assert_same(ours(sae, to_ours, x_BD, task), theirs(sae, out.loss))


KINDS: dict[str, tuple[str, float, dict[str, Any], int]] = {
    "topk": ("TopK", K, {}, 1),
    "abstopk": ("AbsTopK", K, {}, 1),
    "batchtopk": ("BatchTopK", 2.5, {}, 1),
    "matryoshka": ("MatryoshkaBatchTopK", 2.5, {"matryoshka_widths": list(WIDTHS)}, len(WIDTHS)),
}
"""Their class; k; more of their configuration; P: our error is the mean over so many prefixes, theirs the sum."""
every_kind = pytest.mark.parametrize("architecture", KINDS)


@every_kind
@centring
def test_topk_kinds(architecture, centred):
    """Their f is our f_i ‖W_dec_i‖, divided by ‖W_dec_i‖ when decoded: rows may have any length."""
    x_BD, (kind, k, keys, P) = x_of(), KINDS[architecture]
    sae, weights = made(kind, centred, k=k, **keys)
    to_ours, task = partial(four, centred=centred), topk_task(architecture, k, decoder="free")
    out, mine = trained(sae, x_BD), ours(sae, to_ours, x_BD, task)
    assert_same_pass(sae, to_ours, x_BD, task, out.feature_acts / row_norms(weights), out.sae_out)
    assert_same(mine, theirs(sae, out.loss / P))
    if isinstance(task.phi, BatchTopK):  # their running mean of it begins at 0 and goes 1/100 of the way
        for found in mine:
            assert sae.topk_threshold.item() == pytest.approx(0.01 * found.sums.threshold, rel=TOLERANCE)


@every_kind
@pytest.mark.parametrize("dead", [2, 5])
def test_auxk_where_no_dead_feature_is_cut_off(architecture, dead):
    """α ‖e - ê‖², e held fixed, of the D/2 dead features with the largest z; their α is times min(1, dead / (D/2)).

    z > 0, or those of an abstopk, which has features of both signs and takes them by |z|.
    """
    x_BD, (kind, k, keys, P) = x_of(), KINDS[architecture]
    sae, weights = made(kind, False, k=k, aux_loss_coefficient=0.7, **keys)
    call_dead(weights, bias=0.0 if architecture == "abstopk" else 1.0)
    task = topk_task(architecture, k, dead, auxk=0.7 * min(1, dead / K_AUX) / P)
    out = trained(sae, x_BD, DEAD_N[:dead])
    assert_same(ours(sae, partial(four, centred=False), x_BD, task), theirs(sae, out.loss / P))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_auxk_of_negative_z(architecture):
    """They differ: a dead feature with z < 0 gives 0 in ours, as a feature of a topk does, and z in theirs.

    Gao et al. 2024 (arXiv 2406.04093, A.2) take the dead features' own activations, and those go through a ReLU, as in
    the forward pass: openai/sparse_autoencoder, train.py.
    """
    x_BD, (kind, k, keys, P) = x_of(), KINDS[architecture]
    sae, weights = made(kind, False, k=k, aux_loss_coefficient=0.7, **keys)
    call_dead(weights, bias=0.0)
    to_ours, without_auxk = partial(four, centred=False), topk_task(architecture, k)
    without = ours(sae, to_ours, x_BD, without_auxk)[0]
    mine = ours(sae, to_ours, x_BD, topk_task(architecture, k, len(DEAD_N), auxk=0.7 / P))
    them = theirs(sae, trained(sae, x_BD, DEAD_N).loss / P)

    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    z_BF = x_BD @ leaves["W_enc"] + leaves["b_enc"]
    e_BD = x_BD - reference.forward(x_BD, x_BD, weights, without_auxk).y_hat_BE

    def by_loops(f_of: Callable[[Tensor], Tensor]) -> Found:
        """mean_B ‖e - Σ_i f(z_i) W_dec_i‖² over the D/2 dead features of a token with the largest z."""
        total = x_BD.new_zeros(())
        for z_F, e_D in zip(z_BF, e_BD, strict=True):
            picked = sorted(DEAD_N, key=lambda i: -z_F[i].item())[:K_AUX]
            total = total + (e_D - sum(f_of(z_F[i]) * leaves["W_dec"][i] for i in picked)).square().sum()
        return by_autograd("loops", 0.7 / P * total / B, leaves)

    right = without.plus(by_loops(torch.relu))
    assert_same(mine, right)
    assert_same([them], without.plus(by_loops(lambda z: z)))
    rows = list(DEAD_N)
    assert apart(them.gradients["W_dec"][rows], right.gradients["W_dec"][rows]) > 0.1


def test_k_of_a_batch_is_rounded():
    """They differ: 2.3 · 100 is 229.99999999999997 in floating point, which sae-lens truncates to 229 entries."""
    batch_topk = pytest.importorskip("sae_lens.saes.batchtopk_sae", reason="sae-lens is not installed").BatchTopK
    z_BF = torch.rand(100, F).double() + 0.1
    kept = BatchTopK(2.3)(z_BF, {"W_dec": torch.eye(F).double()})
    assert (int((kept != 0).sum()), int((batch_topk(2.3)(z_BF) != 0).sum())) == (230, 229)


TARGET = 4.0
PENALTIES: dict[str, tuple[str, dict[str, Any]]] = {
    "jumprelu": ("step", {}),
    "jumprelu_tanh": ("tanh", {"jumprelu_tanh_scale": 4.0, "jumprelu_ste_to_input": True}),
    "jumprelu_quadratic": ("quadratic", {"target_l0": TARGET}),
}


@pytest.mark.parametrize("architecture", PENALTIES)
@centring
def test_jumprelu(architecture, centred):
    """‖x̂ - x‖² + λ times L0 (arXiv 2407.14435, equations 9 to 12), Σ tanh(4 f_i ‖W_dec_i‖) or (2/t) (L0 - t)².

    Straight through the jump in θ alone, with tanh in z too (transformer-circuits.pub/2025/january-update).
    """
    x_BD, to_ours, (mode, keys) = x_of(), partial(four, centred=centred), PENALTIES[architecture]
    sae, weights = made("JumpReLU", centred, jumprelu_bandwidth=BANDWIDTH, jumprelu_sparsity_loss_mode=mode, **keys)
    weights["threshold"].abs_()
    task = task_of(config_of(architecture, F, bandwidth=BANDWIDTH, tanh_scale=4.0), TARGET, 0.3)
    out = trained(sae, x_BD, l0=0.3)
    assert_same_pass(sae, to_ours, x_BD, task, out.feature_acts, out.sae_out)
    assert_same(ours(sae, to_ours, x_BD, task), theirs(sae, out.loss))


def test_dead_features_pulled_up():
    """c Σ max(θ_i - z_i, 0) ‖W_dec_i‖ over the dead features (January 2025, where it is over all)."""
    x_BD, to_ours = x_of(), partial(four, centred=False)
    sae, weights = made("JumpReLU", False, jumprelu_bandwidth=BANDWIDTH, pre_act_loss_coefficient=0.7)
    weights["threshold"].abs_()
    task = task_of(
        config_of("jumprelu", F, bandwidth=BANDWIDTH, preactivation=0.7), 0, 0.3, dead_N=torch.tensor(DEAD_N)
    )
    assert isinstance(task.objective[-1][1], PreActivation)
    assert_same(ours(sae, to_ours, x_BD, task), theirs(sae, trained(sae, x_BD, DEAD_N, l0=0.3).loss))


@centring
def test_gated(centred):
    """They differ in the decoder alone: theirs is trained by both terms of the gate, ours by neither.

    ‖x̂ - x‖² + λ Σ g_i ‖W_dec_i‖ + ‖g W_dec + b_dec - x‖², g = max(z, 0), the decoder held fixed in the terms of g
    (arXiv 2404.16014, 3.2.2, where rows have length 1). For free rows its authors advise to train the decoder by both
    or by neither (LessWrong post vdoiWXeouGsZEYgrg, N6C2nFatJfeq9hrxM).
    """
    x_BD = x_of()
    sae, weights = made("Gated", centred)
    task = task_of(config_of("gated", F), 0, 0.3)

    def to_ours(weights: Any) -> Any:
        return gated_form(**weights, centred=centred)

    out, mine = trained(sae, x_BD, l1=0.3), ours(sae, to_ours, x_BD, task)
    assert_same_pass(sae, to_ours, x_BD, task, out.feature_acts, out.sae_out)
    them = theirs(sae, out.loss)
    assert_same(mine, them, but=("W_dec", "b_dec"))

    # what goes through the decoder of both, of which theirs has more
    centred_BD = x_BD - weights["b_dec"] if centred else x_BD
    g_BF = torch.relu(centred_BD @ weights["W_enc"] + weights["b_gate"])
    slope_BD = 2 / B * (g_BF @ weights["W_dec"] + weights["b_dec"] - x_BD)
    pull_FD = 0.3 / B * (g_BF.sum(0) / row_norms(weights))[:, None] * weights["W_dec"]
    for found in mine:
        for name, more in {"W_dec": g_BF.T @ slope_BD + pull_FD, "b_dec": slope_BD.sum(0)}.items():
            assert apart(found.gradients[name] + more, them.gradients[name]) < TOLERANCE, (found.path, name)

    # with both of them constants, ours is the slope of the loss: along one direction of the decoder
    f_BF, along_FD = out.feature_acts.detach(), torch.ones(F, D).double()

    def loss_at(step: float) -> float:
        W_dec_FD = weights["W_dec"] + step * along_FD
        return (f_BF @ W_dec_FD + weights["b_dec"] - x_BD).square().sum(1).mean().item()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    for found in mine:
        assert (found.gradients["W_dec"] * along_FD).sum().item() == pytest.approx(slope, rel=1e-6)
    assert (them.gradients["W_dec"] * along_FD).sum().item() != pytest.approx(slope, rel=0.01)
