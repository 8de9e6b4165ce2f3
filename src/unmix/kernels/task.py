"""What a training step is asked to do, and what it answers: the same for every way of computing it.

Letters: B tokens, D width of x, E width of the target y, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import Nonlinearity
from unmix.dictionary.terms import L1, Objective, SquaredError, Term

Weights = dict[str, Tensor]
"""The parameters of a dictionary by name, or their gradients. W_enc [D, F] has a feature's numbers side by side."""


Number = float | Tensor
"""On the host, or left on a device, (); there in the dtype of `wide`."""


def wide(x: Tensor) -> Tensor:
    """In float64, or in float32 on a device that has no wider one."""
    return x.float() if x.device.type == "mps" else x.double()


def on_host(numbers: Sequence[Number]) -> list[float]:
    """As plain numbers; waits once for the device that some of them lie on."""
    there = [wide(number) for number in numbers if isinstance(number, Tensor)]
    read = iter(torch.stack(there).tolist() if there else [])
    return [next(read) if isinstance(number, Tensor) else number for number in numbers]


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

    def coefficient(self, kind: type) -> Any:
        """Of the term of this kind, a `Number`; 0 if there is none."""
        return sum(coefficient for coefficient, term in self.objective if isinstance(term, kind))

    def has(self, kind: type) -> bool:
        """Whether the term of this kind may count: one whose coefficient lies on a device may."""
        coefficient = self.coefficient(kind)
        return isinstance(coefficient, Tensor) or bool(coefficient != 0)

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

    squared_error: Number
    """Σ_B ||ŷ - y||²."""
    terms: tuple[Number, ...]
    """Σ_B of each term of the objective, before its coefficient."""
    penalty: Number
    """Σ_B Σ_i w_i |f_i|, whether it is in the objective or not."""
    active_F: Tensor
    """Tokens of the batch on which each feature was active, float32 (exact below 2**24)."""
    square_B: Tensor
    """||ŷ - y||² of each token, float64: what a caller needs to weigh tokens in its own way."""
    threshold: Number | None = None
    """The least contribution that a batchtopk kept of this batch."""
    room: str = ""
    """Of what there had to be room on a GPU, and for how many; see `gpu_workspace`."""
    needed: Number = 0.0

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All of them but those of features and tokens."""
        least = () if self.threshold is None else (self.threshold,)
        return (self.squared_error, self.penalty, self.needed, *self.terms, *least)

    def of(self, numbers: Sequence[Number]) -> Sums:
        """The same with these in place of `numbers`."""
        squared_error, penalty, needed, *rest = numbers
        terms, least = tuple(rest[: len(self.terms)]), rest[len(self.terms) :]
        kept = least[0] if least else None
        return Sums(squared_error, terms, penalty, self.active_F, self.square_B, kept, self.room, needed)

    def read(self) -> Sums:
        """The same on the host; waits for the device at most once."""
        return self.of(on_host(self.numbers))


class Adam(NamedTuple):
    """An update (Kingma & Ba 2015, algorithm 1)."""

    lr: float
    number: int
    """t, from 1: the means are corrected by 1 - β^t."""
    betas: tuple[float, float]
    shrink: Number = 1.0
    """What the gradient is multiplied by, first: clipping."""
    unit_norm: bool = False
    """Decoder rows are brought back to length 1."""
    eps: float = 1e-8
    stop_1: Tensor | None = None
    """Where it is not 0 nothing is changed: for a host that does not wait to know whether to update."""
    bias_rate: float = 1.0
    """What `lr` is multiplied by for b_enc."""

    def rate(self, name: str) -> float:
        """The learning rate of these weights."""
        return self.lr * (self.bias_rate if name == "b_enc" else 1.0)
