"""What a training step is asked to do, and what it answers: the same for every way of computing it.

Letters: B tokens, D width of x, E width of the target y, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from unmix.dictionary.nonlinearities import Nonlinearity
from unmix.dictionary.terms import L1, Objective, SquaredError, Term

Weights = dict[str, Tensor]
"""The parameters of a dictionary by name, or their gradients. W_enc [D, F] has a feature's numbers side by side."""


def wide(x: Tensor) -> Tensor:
    """In float64, or in float32 on a device that has no wider one."""
    return x.float() if x.device.type == "mps" else x.double()


class Noise(NamedTuple):
    """ε ~ N(0, σ²) on the pre-activations of one step."""

    sigma: float
    key: int
    """Of the step: 64 bits, see `noise.noise_key`."""


class Task(NamedTuple):
    """A dictionary's nonlinearity, and what it is trained for in this step."""

    phi: Nonlinearity
    objective: Objective
    noise: Noise | None = None
    """ε; none outside training."""
    unit_norm: bool = False
    """Decoder rows have length 1, and their gradients no part along them."""

    def only(self, *kinds: type) -> bool:
        """Whether every term is one of these, and none of them twice."""
        found = [type(term) for _, term in self.objective]
        return set(found) <= set(kinds) and len(set(found)) == len(found)

    def coefficient(self, kind: type) -> float:
        """Of the term of this kind; 0 if there is none."""
        return sum(coefficient for coefficient, term in self.objective if isinstance(term, kind))

    def term(self, kind: type) -> Term | None:
        """The term of this kind, if there is one."""
        return next((term for _, term in self.objective if isinstance(term, kind)), None)

    @property
    def error(self) -> SquaredError:
        """The term of the error."""
        return next(term for _, term in self.objective if isinstance(term, SquaredError))

    @property
    def weigh_by_norm(self) -> bool:
        """w_i = ||W_dec_i|| in the penalty that is logged; else 1."""
        return next((term.weigh_by_norm for _, term in self.objective if isinstance(term, L1)), True)

    def values(self, found: Mapping[type[Term], float]) -> tuple[float, ...]:
        """What was found for each kind of term, in the order of the objective."""
        return tuple(found[type(term)] for _, term in self.objective)


class Sums(NamedTuple):
    """What a batch adds to the metrics: sums over its tokens."""

    squared_error: float
    """Σ_B ||ŷ - y||²."""
    terms: tuple[float, ...]
    """Σ_B of each term of the objective, before its coefficient."""
    penalty: float
    """Σ_B Σ_i w_i |f_i|, whether it is in the objective or not."""
    active_F: Tensor
    """Tokens of the batch on which each feature was active, float32 (exact below 2**24)."""
    square_B: Tensor
    """||ŷ - y||² of each token, float64: what a caller needs to weigh tokens in its own way."""
    threshold: float | None = None
    """The least contribution that a batchtopk kept of this batch."""


class Adam(NamedTuple):
    """An update (Kingma & Ba 2015, algorithm 1)."""

    lr: float
    number: int
    """t, from 1: the means are corrected by 1 - β^t."""
    betas: tuple[float, float]
    shrink: float = 1.0
    """What the gradient is multiplied by, first: clipping."""
    unit_norm: bool = False
    """Decoder rows are brought back to length 1."""
    eps: float = 1e-8
