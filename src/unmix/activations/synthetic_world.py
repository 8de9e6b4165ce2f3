"""A world of known features: their directions, how often and how strongly they are active, and which belong together.

The definition of SynthSAEBench (Chanin & Garriga-Alonso 2026, arXiv 2602.14687), with its published constants as the
defaults. N features, D width, R rank of the correlations.

    x = Σ_i a_i d_i + b                 ||d_i|| = 1, ||b|| = bias_norm
    q_i                                 Zipf: i^-exponent, brought linearly to most_often … least_often
    d                                   random directions, then `orthogonal_steps` steps of Adam down
                                        Σ_{i≠j} (d_i·d_j)² + N Σ_i (||d_i||² - 1)², then length 1
    trees                               the first features, breadth first: `roots` trees with `branching` children each,
                                        `depth` levels below the root; the features behind them stand alone
    p_i = min(1, q_i c_i)               c_i = 1 of roots and of those that stand alone, else
                                        (1 + Σ_siblings q_j / q_parent) / q_parent: what a child loses to its parent's
                                        silence and its siblings, if they were independent

A sample: g_i = L_i·ε + √(1 - |L_i|²) η_i with ε, η standard normal and L_ir ~ N(0, scale²). Feature i is on where
g_i > Φ⁻¹(1 - p_i), with a_i = max(0, m_i + s_i ν): m falls linearly from the first of `strengths` to the second,
s = |N(spread, spread²)|. From the roots down, a child is off where its parent is, of siblings that are on one is drawn,
each as likely, and its a is multiplied by a_parent / m_parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.errors import UserError

_WORLD = 5  # what a generator is for
_MOST_SHARED = 0.99  # of the variance of g: no feature is given by ε alone
_DIGITS = 2.0**11  # factors are multiples of 1/_DIGITS


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What the world is made from."""

    features: int = 16_384
    """N."""
    width: int = 768
    """D."""
    exponent: float = 0.5
    most_often: float = 0.4
    least_often: float = 5e-4
    roots: int = 128
    branching: int = 4
    depth: int = 3
    rank: int = 25
    """R."""
    scale: float = 0.1
    strengths: tuple[float, float] = (5.0, 4.0)
    spread: float = 0.5
    bias_norm: float = 0.5
    orthogonal_steps: int = 100
    orthogonal_lr: float = 3e-4
    seed: int = 42

    @property
    def parents(self) -> int:
        """Features that have children, the first ones: the first child of i is roots + branching · i."""
        return self.roots * sum(int(self.branching**level) for level in range(self.depth))

    @property
    def in_trees(self) -> int:
        """Features of all trees: the first ones."""
        return self.roots + self.branching * self.parents

    def check(self) -> None:
        """Raises `UserError` if the trees have more features than there are."""
        if self.in_trees > self.features:
            raise UserError(
                f"{self.roots} trees of depth {self.depth} have {self.in_trees:,} features, and there are "
                f"{self.features:,}; give fewer roots, or more features"
            )


@dataclass(frozen=True)
class World:
    """The truth. A pure function of its configuration, whatever the number of threads."""

    config: WorldConfig
    directions_ND: Tensor
    """d."""
    bias_D: Tensor
    rate_N: Any
    """q, float64."""
    probability_N: Any
    """p, float64: of being on before the trees have their say."""
    strength_N: Any
    """m."""
    spread_N: Any
    """s."""
    factor_NR: Any
    """L_i / √(1 - |L_i|²), of which g_i / √(1 - |L_i|²) = factor_i·ε + η_i."""
    cut_N: Any
    """Φ⁻¹(p_i) / √(1 - |L_i|²): on where factor_i·ε + η_i + cut_i > 0."""


def make_world(config: WorldConfig) -> World:
    """Make it. At the published size it takes 4 TFLOP, a minute on one core."""
    config.check()
    N, D = config.features, config.width
    rng = np.random.default_rng([config.seed, _WORLD])
    d_ND = torch.from_numpy(rng.standard_normal((N, D), np.float32))
    b_D = torch.from_numpy(rng.standard_normal(D, np.float32))
    L_NR = rng.standard_normal((N, config.rank)) * config.scale
    s_N = np.abs(rng.standard_normal(N) * config.spread + config.spread)

    L_NR *= np.sqrt(np.minimum(1, _MOST_SHARED / np.square(L_NR).sum(1, keepdims=True).clip(1e-12)))
    factor_NR = L_NR / np.sqrt(1 - np.square(L_NR).sum(1, keepdims=True))
    # with few digits, here and in ε, their products and all sums of them are exact in float32, in any order
    factor_NR = np.round(factor_NR * _DIGITS) / _DIGITS
    rate_N = zipf(config)
    p_N = np.minimum(1, rate_N * compensation(config, rate_N))
    return World(
        config,
        orthogonal(d_ND, config.orthogonal_steps, config.orthogonal_lr),
        b_D * (config.bias_norm / b_D.norm()),
        rate_N,
        p_N,
        np.linspace(*config.strengths, N).astype(np.float32),
        s_N.astype(np.float32),
        factor_NR.astype(np.float32),
        (normal_quantile(p_N) * np.sqrt(1 + np.square(factor_NR).sum(1))).astype(np.float32),
    )


def zipf(config: WorldConfig) -> Any:
    """q, (N,)."""
    q_N = np.arange(1, config.features + 1) ** -config.exponent
    span = config.most_often - config.least_often
    rate_N: Any = config.least_often + span * (q_N - q_N[-1]) / max(q_N[0] - q_N[-1], 1e-12)
    return rate_N


def compensation(config: WorldConfig, rate_N: Any) -> Any:
    """c, (N,)."""
    c_N, P = np.ones(len(rate_N)), config.parents
    children_PK = rate_N[config.roots : config.in_trees].reshape(P, config.branching)
    above_P1 = rate_N[:P, None]
    others_PK = children_PK.sum(1, keepdims=True) - children_PK
    c_N[config.roots : config.in_trees] = ((1 + others_PK / above_P1) / above_P1).ravel()
    return c_N


def orthogonal(d_ND: Tensor, steps: int, lr: float) -> Tensor:
    """Directions of length 1, pushed apart.

    The gradient of Σ_{i≠j} (d_i·d_j)² is 4 (d (dᵀd) - n d), with n_i = ||d_i||²: no N x N matrix is made.
    """
    N, threads = len(d_ND), torch.get_num_threads()
    d_ND = (d_ND / d_ND.norm(dim=1, keepdim=True)).requires_grad_()
    adam = torch.optim.Adam([d_ND], lr)
    torch.set_num_threads(1)  # a product's last digits may depend on how many there are
    try:
        with torch.no_grad():
            for _ in range(steps):
                n_N1 = d_ND.square().sum(1, keepdim=True)
                d_ND.grad = 4 * (d_ND @ (d_ND.T @ d_ND) + (N * (n_N1 - 1) - n_N1) * d_ND)
                adam.step()
            made_ND: Tensor = d_ND / d_ND.norm(dim=1, keepdim=True)
            return made_ND
    finally:
        torch.set_num_threads(threads)


def normal_quantile(p: Any) -> Any:
    """Φ⁻¹, float64."""
    return torch.special.ndtri(torch.from_numpy(np.asarray(p, np.float64))).numpy()
