"""T: what is done to each token by itself before the encoder, and undone behind the decoder.

    ByLength     u = x √D / ‖x‖                 T⁻¹(v) = v ‖x‖ / √D
    LayerNorm    u = (x - μ) / (s + ε)          T⁻¹(v) = v s + μ

    μ = Σ_d x_d / D,    s² = Σ_d (x_d - μ)² / (D - 1)

ByLength is SAELens' `constant_norm_rescale`. LayerNorm is SAELens' `layer_norm` (sae-lens 6.54.12, sae.py), the
normalization of OpenAI's sparse_autoencoder (model.py, `LN`) and `input_unit_norm` of Bussmann's BatchTopK (sae.py,
`preprocess_input`): all three divide the squares by D - 1, add ε = 1e-5 to s and not under the root, and leave ε out
on the way back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Taken(NamedTuple):
    """A token as the encoder sees it, and what it takes to undo that: T⁻¹(v) = v · scale + shift."""

    u: Tensor
    scale: Tensor
    """(..., 1)."""
    shift: Tensor | None
    """(..., 1); None: nothing was subtracted."""


class PerToken(Protocol):
    """One of the classes below: frozen, compared by value, final."""

    name: ClassVar[str]

    def take(self, x: Tensor) -> Taken:
        """u and what undoes it, of x (..., D), in the dtype of x."""
        ...


@dataclass(frozen=True)
class ByLength:
    """x √D / ‖x‖."""

    name: ClassVar[str] = "length"

    def take(self, x: Tensor) -> Taken:
        norm: Tensor = x.norm(dim=-1, keepdim=True)
        scale = norm.clamp_min(torch.finfo(x.dtype).tiny) / math.sqrt(x.shape[-1])
        return Taken(x / scale, scale, None)


@dataclass(frozen=True)
class LayerNorm:
    """(x - μ) / (s + 1e-5), s with D - 1; a token of width 1 has s = 0."""

    name: ClassVar[str] = "layer_norm"
    epsilon: ClassVar[float] = 1e-5

    def take(self, x: Tensor) -> Taken:
        mean = x.mean(dim=-1, keepdim=True)
        x = x - mean
        deviation = x.std(dim=-1, keepdim=True) if x.shape[-1] > 1 else torch.zeros_like(mean)
        return Taken(x / (deviation + self.epsilon), deviation, mean)
