"""What `check_gpu.py` runs the kernels on, and the same numbers in plain torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, Gated, JumpRelu, Nonlinearity, Relu, TanhRelu, TopK
from unmix.dictionary.terms import (
    L0,
    L1,
    AuxK,
    Gate,
    GateError,
    L0Target,
    MoreActive,
    PreActivation,
    SquaredError,
    Tanh,
    token_weights,
)
from unmix.kernels.task import Noise, Task, Weights

RELU = Relu()


def task(
    l1: float,
    phi: Nonlinearity = RELU,
    *,
    weigh: bool = True,
    norm_power: int = 0,
    noise: Noise | None = None,
    unit_norm: bool = False,
) -> Task:
    """The squared error and the penalty."""
    return Task(phi, ((1.0, SquaredError(norm_power)), (l1, L1(weigh))), noise, unit_norm)


BANDWIDTH = 1 / 8


def rows(F: int, k: int, device: str, bandwidth: float = BANDWIDTH) -> dict[str, Task]:
    """Every row of the table that the kernels know, with all that it may be trained for beside.

    AuxK takes all the dead features: of equal ones, torch may take others in float64.
    """
    dead_N = torch.arange(0, F, max(1, F // 8), device=device)
    auxk, pulled = (0.3, AuxK(len(dead_N), dead_N, 3)), (0.3, PreActivation(dead_N))
    prefixes = tuple(sorted({max(1, F // 32), max(1, F // 5), F}))
    error, jump = SquaredError(1), JumpRelu(bandwidth)
    topk, abstopk, batchtopk = TopK(k), AbsTopK(k), BatchTopK(k + 0.5)
    nested = SquaredError(0, prefixes)
    return {
        "relu": Task(Relu(), ((1.0, error), (0.3, L1()))),
        "tanh_relu": Task(TanhRelu(), ((1.0, error), (0.3, L1(False)))),
        "topk": Task(topk, ((1.0, error), auxk)),
        "topk, four times k": Task(topk, ((1.0, error), (0.5, MoreActive(TopK(4 * k), error)))),
        "abstopk": Task(abstopk, ((1.0, error), (0.3, AuxK(len(dead_N), dead_N, 1, True)))),
        "batchtopk": Task(batchtopk, ((1.0, error), auxk)),
        "matryoshka": Task(batchtopk, ((1.0, nested),), unit_norm=True),
        "jumprelu": Task(jump, ((1.0, error), (0.3, L0(bandwidth)))),
        "jumprelu_tanh": Task(JumpRelu(bandwidth, to_input=True), ((1.0, error), (0.3, Tanh()), pulled)),
        "jumprelu_quadratic": Task(jump, ((1.0, nested), (0.3, L0Target(float(k), bandwidth)))),
    }


def all_rows(F: int, k: int, device: str, bandwidth: float = BANDWIDTH) -> dict[str, Task]:
    """Those and the one that only the portable step knows."""
    error = SquaredError(1)
    gated = Task(Gated(), ((1.0, error), (0.3, Gate()), (1.0, GateError(error))))
    return rows(F, k, device, bandwidth) | {"gated": gated}


def without_dead(asked: Task) -> Task:
    """Without what revives dead features."""
    kept = tuple(row for row in asked.objective if not isinstance(row[1], AuxK | PreActivation))
    return asked._replace(objective=kept)


def own(weights: Weights, asked: Task) -> Weights:
    """Those that the task's nonlinearity reads, with rows of length 1 where it is trained so."""
    others = {"threshold", "r_mag", "b_mag"} - asked.phi.start(1).keys()
    kept = {name: w for name, w in weights.items() if name not in others}
    unit = {"W_dec": kept["W_dec"] / kept["W_dec"].norm(dim=1, keepdim=True)} if asked.unit_norm else {}
    return kept | unit


def formulas(
    x_BD: Tensor, weights: Weights, asked: Task, z_BF: Tensor | None = None
) -> tuple[Weights, Tensor, dict[str, Tensor]]:
    """Gradients, their square and the sums of a step in plain torch, every (B, F) array whole; `z_BF` where it is known already."""
    W_enc_DF, b_enc_F, W_dec_FD, b_dec_D = (weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    per_token, bounded = asked.coefficient(L1) / len(x_BD), isinstance(asked.phi, TanhRelu)
    z_BF = x_BD @ W_enc_DF + b_enc_F if z_BF is None else z_BF
    f_BF = torch.relu(z_BF)
    if bounded:
        f_BF = torch.tanh(f_BF)
    error_BD = f_BF @ W_dec_FD + b_dec_D - x_BD
    square_B, r_B = error_BD.square().sum(1), token_weights(x_BD, asked.error.norm_power)
    g_BD = error_BD * (r_B * (2 / len(x_BD)))[:, None]
    w_F = W_dec_FD.norm(dim=1) if asked.weigh_by_norm else torch.ones_like(b_enc_F)
    dz_BF = (g_BD @ W_dec_FD.T + w_F * per_token) * (f_BF > 0)
    if bounded:
        dz_BF = dz_BF * (1 - f_BF * f_BF)
    dW_dec_FD = f_BF.T @ g_BD
    if asked.weigh_by_norm:
        dW_dec_FD = dW_dec_FD + W_dec_FD * (f_BF.sum(0) * per_token / w_F)[:, None]
    if asked.unit_norm:
        dW_dec_FD = dW_dec_FD - W_dec_FD * (dW_dec_FD * W_dec_FD).sum(1, keepdim=True)
    gradients = {"W_enc": (dz_BF.T @ x_BD).T, "b_enc": dz_BF.sum(0), "W_dec": dW_dec_FD, "b_dec": g_BD.sum(0)}
    penalty = (f_BF * w_F).sum()
    sums = {
        "squared_error": square_B.sum(),
        "terms": torch.stack([(square_B * r_B).sum(), penalty]),
        "penalty": penalty,
        "active_F": (f_BF > 0).sum(0),
        "square_B": square_B,
    }
    return gradients, torch.stack([g.square().sum() for g in gradients.values()]).sum(), sums


def exact(weights: Weights) -> Weights:
    """The same with decoder rows whose norms are powers of 2, so that contributions are exact in float32, and many
    equal; and with thresholds that no z is near, nor the edges of their windows."""
    W_FE, F = weights["W_dec"], len(weights["b_enc"])
    numbers = 4 ** int(math.log(W_FE.shape[1], 4) + 1e-9)  # that are not 0 in a row, ± 1 / √numbers each
    row_FE = torch.where(W_FE < 0, -1.0, 1.0) / math.sqrt(numbers)
    row_FE[:, numbers:] = 0
    feature_F = torch.arange(F, device=W_FE.device)
    lengths_F = torch.tensor([1.0, 0.5, 2.0], device=W_FE.device)[feature_F % 3]
    theta_F = (feature_F % 64) / 512 + 1 / 4096
    return weights | {"W_dec": row_FE * lengths_F[:, None], "threshold": theta_F}


def magnitudes(weights: Weights) -> Weights:
    """The same with r and b_mag of a gate, such that no magnitude is near 0 where the gate is open.

    Of every second feature r is 0 and the magnitude exact in float32, of either sign; those of the others are above 0.
    """
    b_F = weights["b_enc"]
    odd_F = torch.arange(len(b_F), device=b_F.device) % 2 == 1
    r_F = torch.where(odd_F, 0.6 * torch.rand_like(b_F), 0)
    exact_F = (torch.randn_like(b_F) * b_F.abs() * 512).round() / 512 + 1 / 1024
    return weights | {"r_mag": r_F, "b_mag": torch.where(odd_F, 2 * b_F.abs() + 1, exact_F)}


def away(out: Any, ref: Any) -> float:
    """||out - ref|| / ||ref||; NaN counts as infinitely far."""
    out, ref = torch.as_tensor(out).double().cpu(), torch.as_tensor(ref).double().cpu()
    far = ((out - ref).norm() / ref.norm().clamp_min(1e-300)).item() if ref.norm() else out.norm().item()
    return math.inf if math.isnan(far) else far
