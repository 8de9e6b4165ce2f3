"""What the truth itself would score: the true directions, each switched by the best linear detector of its feature.

For the F true features that are most often active, with μ and C the mean and the covariance of x, and μ_i the mean of x
over the tokens where feature i is active (in which share p_i of them it is, with a mean strength of a_i),

    z_i = v_i·(x - μ),  v_i = C⁻¹ (μ_i - μ)          Fisher's linear discriminant, which also sees parents and siblings
    f_i = u_i + c_i z_i where that is > θ_i          scaled so that its mean is a_i where i is active and 0 elsewhere
    θ_i                                              the one with the largest F1 on the samples that it is fitted to
    x̂ = Σ f_i d_i + μ - Σ p_i a_i d_i

This is a JumpReLU dictionary with one linear encoder, as a trained one is. It is no bound: what a feature's f should
best be is asked of detection alone, and a discriminant is best only where noise is Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import JumpRelu
from unmix.evaluation.fidelity import Activations
from unmix.evaluation.memory import pieces
from unmix.evaluation.truth import entries
from unmix.kernels.find import Code

BINS = 200  # of f, between which a threshold is looked for
_WIDEST = 2.0  # the last of them, in units of a_i
_RIDGE = 1e-6  # of the mean variance, for directions that x never takes

Batches = Iterable[tuple[Tensor, Code]]
"""(x_BD, the true features that are in it)."""


def linear_readout(directions_ND: Tensor, features: int, samples: Callable[[], Batches]) -> Dictionary:
    """The dictionary. `samples()` gives the same samples each time that it is called: they are read twice."""
    N, D = directions_ND.shape
    x, times_N = Activations(D), torch.zeros(N, dtype=torch.int64)
    strength_N, sum_ND = torch.zeros(N, dtype=torch.float64), torch.zeros(N, D, dtype=torch.float64)
    for x_BD, code in samples():
        token_n, true_n = entries(code)
        x.add(x_BD)
        number_N = torch.bincount(true_n, minlength=N)
        by_true_n = true_n.argsort(stable=True)
        times_N += number_N
        strength_N += torch.bincount(true_n, torch.from_numpy(code.values_N).double(), minlength=N)
        sum_ND += embedding_bag(token_n[by_true_n], x_BD, number_N.cumsum(0) - number_N, mode="sum")
    chosen_F = times_N.argsort(descending=True, stable=True)[:features].sort().values
    times_F = times_N[chosen_F].clamp_min(1)
    p_F, a_F = times_F / x.tokens, strength_N[chosen_F] / times_F
    C_DD = x.square_DD / x.tokens - torch.outer(x.mean_D, x.mean_D)
    C_DD.diagonal().add_(_RIDGE * C_DD.diagonal().mean())
    apart_FD = sum_ND[chosen_F] / times_F[:, None] - x.mean_D
    V_DF = torch.linalg.solve(C_DD, apart_FD.T)
    active_F = (V_DF * apart_FD.T).sum(0)  # the mean of z where the feature is active; over all tokens it is 0
    V_DF *= a_F * (1 - p_F) / active_F
    d_FD = directions_ND[chosen_F].double()
    weights = {
        "W_enc": V_DF,
        "b_enc": p_F * a_F - x.mean_D @ V_DF,
        "W_dec": d_FD,
        "b_dec": x.mean_D - (p_F * a_F) @ d_FD,
    }
    weights = {name: weight.float() for name, weight in weights.items()}
    weights["threshold"] = _thresholds(weights, (_WIDEST * a_F).float().clamp_min(1e-6), chosen_F, samples(), N)
    return Dictionary(weights, JumpRelu())


def _thresholds(weights: dict[str, Tensor], widest_F: Tensor, chosen_F: Tensor, samples: Batches, N: int) -> Tensor:
    """θ, (F,): of BINS steps from 0 to the widest, the one above which F1 is largest."""
    F = len(chosen_F)
    place_N = torch.full((N,), -1)
    place_N[chosen_F] = torch.arange(F)
    all_FK, true_FK = torch.zeros(2, F * BINS, dtype=torch.int64)
    for x_BD, code in samples:
        token_n, true_n = entries(code)
        ours_n = place_N[true_n] >= 0
        token_n, f_n = token_n[ours_n], place_N[true_n[ours_n]]
        for at in pieces(len(x_BD), F):
            z_bF = x_BD[at] @ weights["W_enc"] + weights["b_enc"]
            bin_bF = (z_bF * (BINS / widest_F)).long().clamp_(0, BINS - 1) + BINS * torch.arange(F)
            all_FK += torch.bincount(bin_bF.flatten(), minlength=F * BINS)
            here_n = (token_n >= at.start) & (token_n < at.start + len(z_bF))
            true_FK += torch.bincount(bin_bF[token_n[here_n] - at.start, f_n[here_n]], minlength=F * BINS)
    above_FK, both_FK = (n.view(F, BINS).flip(1).cumsum(1).flip(1) for n in (all_FK, true_FK))
    f1_FK = 2 * both_FK / (above_FK + both_FK[:, :1]).clamp_min(1)  # from bin 0 on, `both` is all that are active
    theta_F: Tensor = f1_FK.argmax(1) * widest_F / BINS
    return theta_F


def untrained(start: Dictionary, mean_D: Tensor) -> Dictionary:
    """A fresh dictionary that encodes x less its mean: the score of random directions."""
    w = start.weights
    return start.changed({"b_enc": w["b_enc"] - mean_D @ w["W_enc"], "b_dec": w["b_dec"] + mean_D})
