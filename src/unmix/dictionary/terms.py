"""What a dictionary is trained for: a loss is a sum of terms, each with its coefficient.

    loss = mean over the batch of  Σ_terms coefficient · term

A term is a frozen value that is called with a `Pass` and answers its sum over the tokens of the batch, differentiable.
Letters: B tokens, D width of x, E width of the target y (y = x for an SAE), F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, Nonlinearity, Weights, row_norms, straight_through


class Pass(NamedTuple):
    """What a batch was made into, for terms to look at; all of it differentiable in the weights."""

    x_BD: Tensor
    y_BE: Tensor
    z_BF: Tensor
    f_BF: Tensor
    y_hat_BE: Tensor
    weights: Weights


class Term(Protocol):
    """One of the classes below."""

    def __call__(self, p: Pass) -> Tensor:
        """The sum over the tokens of the batch, a scalar."""
        ...


@dataclass(frozen=True)
class SquaredError:
    """||ŷ - y||² / ||y||^k; with prefixes m_1 < … < m_P = F, the mean of that over

    ŷ_p = Σ_{i < m_p} f_i W_dec_i + b_dec           (Matryoshka: Bussmann et al. 2025, arXiv 2503.17547)
    """

    norm_power: int = 0
    prefixes: tuple[int, ...] = ()
    """None, or rising numbers of features, the last of which is F."""
    centre_E: Tensor | None = field(default=None, compare=False)
    """c, where what is to be given is y - c: it is y whose length counts."""

    def weigh(self, wanted_BE: Tensor) -> Tensor:
        """1 / ||y||^k of each token, (B,): the error's own scale, which is that of x where y = x."""
        return token_weights(wanted_BE if self.centre_E is None else wanted_BE + self.centre_E, self.norm_power)

    def __call__(self, p: Pass) -> Tensor:
        r_B = self.weigh(p.y_BE)
        if not self.prefixes:
            return (squares(p.y_hat_BE, p.y_BE) * r_B).sum()
        y_hat_BE, total = p.weights["b_dec"].expand_as(p.y_BE), p.x_BD.new_zeros(())
        for start, end in zip((0, *self.prefixes), self.prefixes, strict=False):
            y_hat_BE = y_hat_BE + p.f_BF[:, start:end] @ p.weights["W_dec"][start:end]
            total = total + (squares(y_hat_BE, p.y_BE) * r_B).sum()
        return total / len(self.prefixes)


@dataclass(frozen=True)
class MoreActive:
    """The error that another φ would have, one that keeps more features: Multi-TopK (Gao et al. 2024, A.2).

    ŷ' = φ'(z) W_dec + b_dec. Trained on it too, a topk dictionary may be read with more active features than k.
    """

    phi: Nonlinearity
    error: SquaredError

    def __call__(self, p: Pass) -> Tensor:
        f_BF = self.phi(p.z_BF, p.weights)
        return self.error(p._replace(f_BF=f_BF, y_hat_BE=f_BF @ p.weights["W_dec"] + p.weights["b_dec"]))


@dataclass(frozen=True)
class L1:
    """Σ_i w_i f_i, w_i = ||W_dec_i||₂ or 1.

    f_i ||W_dec_i|| is the norm of feature i's contribution to ŷ: the (B, F, E) contributions are never built.
    """

    weigh_by_norm: bool = True

    def __call__(self, p: Pass) -> Tensor:
        return (p.f_BF * (row_norms(p.weights) if self.weigh_by_norm else 1)).sum()


@dataclass(frozen=True)
class L0:
    """Number of active features, straight through the step of a jumprelu (arXiv 2407.14435, section 3).

    d/dθ Σ [z > θ] = -(1/ε) Σ K((z - θ)/ε), K(u) = [|u| < ½]; nothing for z.
    """

    bandwidth: float = JumpRelu.bandwidth

    def __call__(self, p: Pass) -> Tensor:
        return l0_of_tokens(p, self.bandwidth).sum()


@dataclass(frozen=True)
class L0Target:
    """(2/t) (L0 - t)², L0 of each token and straight through as above: t active features are aimed at.

    Gemma Scope 2 (2025), as SAELens has it.
    """

    target: float
    """t."""
    bandwidth: float = JumpRelu.bandwidth

    def __call__(self, p: Pass) -> Tensor:
        return 2 / self.target * (l0_of_tokens(p, self.bandwidth) - self.target).square().sum()


@dataclass(frozen=True)
class Tanh:
    """Σ_i tanh(c f_i w_i), w_i = ||W_dec_i||₂: about 1 for each active feature, and it has a slope.

    transformer-circuits.pub/2025/january-update, where c is 4 and E||x|| is √D.
    """

    scale: float = 4.0
    """c."""

    def __call__(self, p: Pass) -> Tensor:
        return torch.tanh(self.scale * p.f_BF * row_norms(p.weights)).sum()


@dataclass(frozen=True)
class Gate:
    """What trains a gate, through g = max(z, 0) (arXiv 2404.16014): Σ g_i w_i, w_i = ||W_dec_i||₂ held fixed.

    As the decoder is in `GateError`: a gate is trained by both terms or, if its rows may move in one, by neither.
    """

    def __call__(self, p: Pass) -> Tensor:
        return (torch.relu(p.z_BF) * row_norms(p.weights).detach()).sum()


@dataclass(frozen=True)
class GateError:
    """||g W_dec + b_dec - y||² / ||y||^k with the decoder held fixed, g = max(z, 0): the gate reconstructs too."""

    error: SquaredError = SquaredError()
    """Whose k it is."""

    def __call__(self, p: Pass) -> Tensor:
        W_dec_FE, b_dec_E = p.weights["W_dec"].detach(), p.weights["b_dec"].detach()
        return (squares(torch.relu(p.z_BF) @ W_dec_FE + b_dec_E, p.y_BE) * self.error.weigh(p.y_BE)).sum()


@dataclass(frozen=True, eq=False)
class AuxK:
    """||e - Σ_i f_i W_dec_i||² over the k dead features of a token that would contribute most, f_i = max(z_i, 0).

    Divided by a power of ||y|| as `error` is.

    e = y - ŷ is held fixed: dead features learn what the others leave over (Gao et al. 2024, arXiv 2406.04093, A.2).
    What a feature would contribute is z_i ||W_dec_i||, and |z_i| ||W_dec_i|| where f_i = z_i may be of both signs.
    Where many are dead it is taken over one token in `stride`, and multiplied by that.
    """

    k: int
    dead_N: Tensor
    """Which features are dead, ascending."""
    stride: int = 1
    both_signs: bool = False
    error: SquaredError = SquaredError()

    def __call__(self, p: Pass) -> Tensor:
        r_B = self.error.weigh(p.y_BE[:: self.stride])
        e_BE = (p.y_BE - p.y_hat_BE).detach()[:: self.stride]
        z_BN, W_dec_NE = p.z_BF[:: self.stride, self.dead_N], p.weights["W_dec"][self.dead_N]
        f_BN = torch.where(self.takes(z_BN, W_dec_NE), z_BN if self.both_signs else torch.relu(z_BN), 0)
        return (squares(f_BN @ W_dec_NE, e_BE) * r_B).sum() * len(p.x_BD) / len(e_BE)

    def takes(self, z_BN: Tensor, W_dec_NE: Tensor) -> Tensor:
        """Which k dead features of each token, bools; of equal contributions those with the lowest index."""
        score_BN = (z_BN.abs() if self.both_signs else z_BN).detach() * W_dec_NE.detach().norm(dim=1)
        k = min(self.k, score_BN.shape[1])
        if k < 1:
            return torch.zeros_like(score_BN, dtype=torch.bool)
        # which of equal ones `topk` takes is undefined, the least that it takes is not
        least_B1 = score_BN.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
        taken_BN: Tensor = ~(score_BN < least_B1)  # NaN is taken, so that it shows
        if score_BN.device.type != "cpu" or (taken_BN.sum(1) > k).any():  # a device is not asked: the host would wait
            at_BN = score_BN == least_B1
            above_BN = taken_BN & ~at_BN
            room_B1 = k - above_BN.sum(1, keepdim=True)
            taken_BN = above_BN | (at_BN & (at_BN.cumsum(1) <= room_B1))
        return taken_BN


@dataclass(frozen=True, eq=False)
class PreActivation:
    """Σ_i max(θ_i - z_i, 0) w_i over the dead features: how far each stays below its threshold, 0 where it has none.

    transformer-circuits.pub/2025/january-update takes it over all features, SAELens over the dead ones; of a feature
    that is active now and then it would be a second, opposite penalty.
    """

    dead_N: Tensor
    """Which features are dead, ascending."""

    def __call__(self, p: Pass) -> Tensor:
        z_BN, w_N = p.z_BF[:, self.dead_N], row_norms(p.weights)[self.dead_N]
        theta_N = p.weights["threshold"][self.dead_N] if "threshold" in p.weights else torch.zeros_like(w_N)
        return (torch.relu(theta_N - z_BN) * w_N).sum()


Objective = tuple[tuple[float | Tensor, Term], ...]
"""(coefficient, term) …: the squared error first. A coefficient may lie on a device."""


def squares(y_hat_BE: Tensor, y_BE: Tensor) -> Tensor:
    """||ŷ - y||², (B,)."""
    return (y_hat_BE - y_BE).square().sum(1)


def l0_of_tokens(p: Pass, bandwidth: float) -> Tensor:
    """Active features of each token, straight through the jump, (B,)."""
    theta_F = p.weights["threshold"]
    active_BF = (p.z_BF > theta_F).to(p.z_BF.dtype)
    return (active_BF - straight_through(p.z_BF, theta_F, bandwidth)).sum(1)


def token_weights(y_BE: Tensor, norm_power: int) -> Tensor:
    """1 / ||y||^k, (B,); 0 for a token of length 0, which has no direction to give."""
    if norm_power == 0:
        return y_BE.new_ones(len(y_BE))
    norm_B = y_BE.norm(dim=1)
    return torch.where(norm_B == 0, 0, norm_B ** (-norm_power))


def loss(objective: Objective, sums: Sequence[float | Tensor]) -> float | Tensor:
    """The loss of a batch, summed over its tokens, from its sums of each term."""
    return sum(coefficient * found for (coefficient, _), found in zip(objective, sums, strict=True))
