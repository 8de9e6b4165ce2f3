"""phi: which features are active, and how much. f = phi(z), z = x W_enc + b_enc (+ ε in training).

    relu        max(z, 0)
    tanh_relu   tanh(max(z, 0)): the normalized SAE (LessWrong post 3ZCKSArYwgg9P4hqQ)
    jumprelu    z where z > θ_i, else 0 (Rajamanoharan et al. 2024, arXiv 2407.14435)
    topk        max(z, 0) of the k features of a token that contribute most (Gao et al. 2024, arXiv 2406.04093)
    abstopk     z of the k features of a token whose |z| contributes most, of either sign (Zhu et al. 2025, 2510.00404)
    batchtopk   max(z, 0) of the B k entries of a batch that contribute most (Bussmann et al. 2024, arXiv 2412.06410)
    gated       exp(r_i) (z - b_enc) + b_mag_i where z > 0 and that is too (Rajamanoharan et al. 2024, arXiv 2404.16014)

What a feature contributes is |f_i| ||W_dec_i||, f_i what it would be, so that it does not matter how long its decoder
row is. Of equal contributions, those with the lowest index (token first, then feature) are kept.

A nonlinearity reads its own parameters by name from the weights of its dictionary. It is called with the z of a whole
batch and is differentiable; `saved` gives the form that acts on each token by itself, with its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
"""W_enc [D, F], b_enc [F], W_dec [F, E], b_dec [E], and a nonlinearity's own; the gradients have the same names."""


class Nonlinearity(Protocol):
    """One of the classes below: frozen, compared by value, final."""

    name: ClassVar[str]

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        """f, (B, F), differentiable in z and in the parameters."""
        ...

    def start(self, features: int) -> dict[str, Tensor]:
        """Its own parameters at the start of training."""
        ...

    def constrain(self, weights: Weights) -> None:
        """Bring its own parameters back to where they have a meaning, after an update."""
        ...

    def moved(self, weights: Weights, by_F: Tensor) -> dict[str, Tensor]:
        """The biases with which it answers to z what it answered to z + by_F, by name."""
        ...

    def alone(self, weights: Weights, threshold: float) -> tuple[Nonlinearity, Weights]:
        """(the form that acts on each token by itself, its weights). `threshold`: what `BatchTopK` has come to."""
        ...

    def saved(self, weights: Weights, threshold: float) -> tuple[Nonlinearity, dict[str, Tensor]]:
        """(that form as it is saved, its weights): nothing that only training needs."""
        ...


class _Plain:
    """Acts on each token by itself, without parameters of its own, and is saved as it is."""

    def start(self, features: int) -> dict[str, Tensor]:
        return {}

    def constrain(self, weights: Weights) -> None:
        pass

    def moved(self, weights: Weights, by_F: Tensor) -> dict[str, Tensor]:
        return {"b_enc": weights["b_enc"] + by_F}

    def alone(self, weights: Weights, threshold: float) -> tuple[Any, Weights]:
        return self, weights

    def saved(self, weights: Weights, threshold: float) -> tuple[Any, dict[str, Tensor]]:
        return self, dict(weights)


@dataclass(frozen=True)
class Relu(_Plain):
    """max(z, 0)."""

    name: ClassVar[str] = "relu"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        return torch.relu(z_BF)


@dataclass(frozen=True)
class TanhRelu(_Plain):
    """tanh(max(z, 0))."""

    name: ClassVar[str] = "tanh_relu"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        return torch.tanh(torch.relu(z_BF))


@dataclass(frozen=True)
class JumpRelu(_Plain):
    """z where z > θ, else 0; θ_i >= 0 is the parameter `threshold`.

    The jump has no derivative. Straight through it (arXiv 2407.14435, section 3), with the rectangle K(u) = [|u| < ½]:

        df/dz = [z > θ],    df/dθ = -(θ/ε) K((z - θ)/ε)

    With `to_input` that slope is z's too, with the opposite sign (transformer-circuits.pub/2025/january-update):

        df/dz = [z > θ] + (θ/ε) K((z - θ)/ε)

    θ itself is trained, not its logarithm as there: Adam moves a small one by steps of the learning rate.
    """

    bandwidth: float = 0.05
    """ε, in the units of z."""
    start_at: float = 0.01
    """θ of every feature at the start."""
    to_input: bool = False
    name: ClassVar[str] = "jumprelu"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        theta_F = weights["threshold"]
        theta_F = theta_F.clamp(max=torch.finfo(theta_F.dtype).max)  # a θ of 1e30, never active, is ∞ in float16
        f_BF = torch.where(z_BF <= theta_F, 0, z_BF)  # NaN is kept, so that it shows
        return f_BF - theta_F.detach() * straight_through(z_BF, theta_F, self.bandwidth, self.to_input)

    def start(self, features: int) -> dict[str, Tensor]:
        return {"threshold": torch.full((features,), self.start_at)}

    def constrain(self, weights: Weights) -> None:
        weights["threshold"].clamp_(min=0)


@dataclass(frozen=True)
class TopK(_Plain):
    """max(z, 0) of the k features of each token that contribute most."""

    k: int
    weigh_by_norm: bool = True
    """Contributions are max(z_i, 0) ||W_dec_i||; else max(z_i, 0), as in what is saved, where rows have length 1."""
    name: ClassVar[str] = "topk"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        f_BF = torch.relu(z_BF)
        score_BF = _score(f_BF, weights, self.weigh_by_norm)
        return f_BF * _largest(score_BF.reshape(-1, score_BF.shape[-1]), self.k).view_as(f_BF) * (score_BF > 0)

    def saved(self, weights: Weights, threshold: float) -> tuple[TopK, dict[str, Tensor]]:
        return TopK(self.k, weigh_by_norm=False), _with_unit_rows(weights)


@dataclass(frozen=True)
class AbsTopK(_Plain):
    """z of the k features of each token whose |z| contributes most: f may be negative."""

    k: int
    weigh_by_norm: bool = True
    """As `TopK`."""
    name: ClassVar[str] = "abstopk"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        score_BF = _score(z_BF.abs(), weights, self.weigh_by_norm)
        return z_BF * _largest(score_BF.reshape(-1, score_BF.shape[-1]), self.k).view_as(z_BF) * (score_BF > 0)

    def saved(self, weights: Weights, threshold: float) -> tuple[AbsTopK, dict[str, Tensor]]:
        return AbsTopK(self.k, weigh_by_norm=False), _with_unit_rows(weights)


@dataclass(frozen=True)
class BatchTopK(_Plain):
    """max(z, 0) of the B k entries of the batch that contribute most; saved as jumprelu at the mean threshold."""

    k: float
    name: ClassVar[str] = "batchtopk"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        f_BF = torch.relu(z_BF)
        score_BF = _score(f_BF, weights, True)
        return f_BF * _largest(score_BF.reshape(1, -1), self.entries(len(f_BF))).view_as(f_BF) * (score_BF > 0)

    def entries(self, tokens: int) -> int:
        """How many are kept of a batch of so many tokens: B k, to the nearest."""
        return round(self.k * tokens)

    def alone(self, weights: Weights, threshold: float) -> tuple[JumpRelu, Weights]:
        """max(z_i, 0) ||W_dec_i|| > threshold; a row of norm 0 contributes nothing."""
        norm_F = row_norms(weights)
        return JumpRelu(), {**weights, "threshold": torch.where(norm_F > 0, threshold / norm_F, 1e30)}

    def saved(self, weights: Weights, threshold: float) -> tuple[JumpRelu, dict[str, Tensor]]:
        """The same with rows of length 1, and one θ for all features."""
        theta_F = torch.full_like(weights["b_enc"], threshold)
        return JumpRelu(), _with_unit_rows(weights) | {"threshold": theta_F}


@dataclass(frozen=True)
class Gated(_Plain):
    """exp(r) (z - b_enc) + b_mag where it is positive and z > 0 is: one product, a gate and a magnitude of it."""

    name: ClassVar[str] = "gated"

    def __call__(self, z_BF: Tensor, weights: Weights) -> Tensor:
        magnitude_BF = (z_BF - weights["b_enc"]) * weights["r_mag"].exp() + weights["b_mag"]
        return torch.relu(magnitude_BF) * (z_BF > 0)

    def start(self, features: int) -> dict[str, Tensor]:
        return {"r_mag": torch.zeros(features), "b_mag": torch.zeros(features)}

    def moved(self, weights: Weights, by_F: Tensor) -> dict[str, Tensor]:
        return super().moved(weights, by_F) | {"b_mag": weights["b_mag"] + weights["r_mag"].exp() * by_F}


def row_norms(weights: Weights) -> Tensor:
    """||W_dec_i||₂, (F,)."""
    norm_F: Tensor = weights["W_dec"].norm(dim=1)
    return norm_F


def _score(f_BF: Tensor, weights: Weights, weigh_by_norm: bool) -> Tensor:
    return (f_BF * row_norms(weights) if weigh_by_norm else f_BF).detach()


def _with_unit_rows(weights: Weights) -> dict[str, Tensor]:
    """The same dictionary with decoder rows of length 1: z is multiplied by what the row is divided by."""
    norm_F = row_norms(weights)
    return {
        **weights,
        "W_enc": weights["W_enc"] * norm_F,
        "b_enc": weights["b_enc"] * norm_F,
        "W_dec": weights["W_dec"] / torch.where(norm_F > 0, norm_F, 1)[:, None],  # a row of norm 0 stays, with z = 0
    }


def _largest(score_RN: Tensor, k: int) -> Tensor:
    """Ones at the k largest of each row, ties to the lowest index, else zeros; in the dtype of the scores."""
    if k <= 0 or k >= score_RN.shape[1]:
        return torch.full_like(score_RN, k > 0)
    # the k-th largest value, then as many of those equal to it as are still wanted, from the left
    least_R1 = _kth_largest(score_RN, k)
    above_RN, at_RN = score_RN > least_R1, score_RN == least_R1
    wanted_R1 = k - above_RN.sum(1, keepdim=True)
    return (above_RN | (at_RN & (at_RN.cumsum(1) <= wanted_R1))).to(score_RN.dtype)


def _kth_largest(score_RN: Tensor, k: int) -> Tensor:
    """Of each row, (R, 1); NaN is the largest."""
    if score_RN.device.type in _SELECTS:
        return score_RN.kthvalue(score_RN.shape[1] - k + 1, dim=1, keepdim=True).values
    return score_RN.topk(k, dim=1).values[:, -1:]


_SELECTS = ("cpu", "cuda")
"""Devices whose `kthvalue` is older than torch 2.6; that of mps is not."""


def straight_through(z_BF: Tensor, theta_F: Tensor, bandwidth: float, to_input: bool = False) -> Tensor:
    """Zeros whose derivative by θ is (1/ε) K((z - θ)/ε), and by z none; or, `to_input`, that with the opposite sign."""
    near_BF = ((z_BF - theta_F) / bandwidth).detach().abs() < 0.5
    slope_BF = near_BF.to(z_BF.dtype) / bandwidth * (theta_F - theta_F.detach())
    if not to_input:
        return slope_BF
    return slope_BF - torch.where(near_BF, (z_BF - z_BF.detach()) / bandwidth, 0)
