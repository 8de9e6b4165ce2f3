"""Small folders in every published layout, and what each format says that they compute, in float64.

The formulas are written out here step by step from what is published of each format, apart from the readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

K = 3


@dataclass
class Look:
    """The files of one dictionary by their paths, and its function."""

    files: dict[str, Any]
    """A dict of tensors, or an object of JSON, or text."""
    function: Callable[[Tensor], tuple[Tensor, Tensor]]
    """x -> (f, y), float64."""
    at: str = ""
    """What to give to the reader."""
    changes: set[str] = field(default_factory=set)
    """Keys whose other values may change the function, or what is expected of the weights."""

    def put(self, folder: Path) -> Path:
        """Write it; answers what to read."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            elif name.endswith(".safetensors"):
                safetensors.torch.save_file({n: t.contiguous().clone() for n, t in content.items()}, path)
            elif name.endswith(".npz"):
                np.savez(path, **{n: t.numpy() for n, t in content.items()})
            elif name.endswith((".pt", ".pth")):
                torch.save(content, path)
            else:
                path.write_text(json.dumps(content), encoding="utf-8")
        return folder / self.at


class Weights:
    """Random ones of a size, drawn in float32 or as rounded to another dtype."""

    def __init__(self, D: int, F: int, seed: int = 0, dtype: torch.dtype = torch.float32, E: int | None = None) -> None:
        draw = torch.Generator().manual_seed(seed)
        E = E or D

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(dtype)

        self.D, self.F, self.E = D, F, E
        self.W_enc, self.b_enc = normal(D, F) / D**0.5, normal(F) * 0.1
        self.W_dec = normal(F, E) * (0.5 + torch.rand(F, 1, generator=draw).to(dtype)) / E**0.5
        self.b_dec = normal(E) * 0.5
        self.theta = (0.2 + torch.rand(F, generator=draw)).to(dtype)
        self.W_skip = torch.randn(D, E, generator=torch.Generator().manual_seed(seed + 1)).to(dtype) / D**0.5
        self.r, self.b_mag, self.scale = (
            normal(F) * 0.3,
            normal(F) * 0.1,
            (0.5 + torch.rand(F, generator=draw)).to(dtype),
        )

    def four(self) -> dict[str, Tensor]:
        return {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}

    def linear(self, prefix: str = "") -> dict[str, Tensor]:
        return {
            f"encoder{prefix}.weight": self.W_enc.T,
            f"encoder{prefix}.bias": self.b_enc,
            f"decoder{prefix}.weight": self.W_dec.T,
        }

    def z(self, x: Tensor, centred: bool) -> Tensor:
        x = x.double() - self.b_dec.double() if centred else x.double()
        return x @ self.W_enc.double() + self.b_enc.double()

    def y(self, f: Tensor) -> Tensor:
        return f @ self.W_dec.double() + self.b_dec.double()

    @property
    def n(self) -> Tensor:
        return self.W_dec.double().norm(dim=1)


def inputs(D: int, tokens: int = 24) -> Tensor:
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(99)) * 3 + 0.7


def topk(z: Tensor, k: int = K) -> Tensor:
    values, at = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, at, values.relu())


def simple(w: Weights, phi: Callable[[Tensor], Tensor], centred: bool) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        f = phi(w.z(x, centred))
        return f, w.y(f)

    return function


def jump(theta: Tensor | float) -> Callable[[Tensor], Tensor]:
    theta = theta.double() if isinstance(theta, Tensor) else theta
    return lambda z: z.relu() * (z > theta)


def layer_norm(of: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The function of (x - μ)/(s + 1e-5), its y times s and moved by μ; squares of s are divided by D - 1."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double()
        mean = x.sum(-1, keepdim=True) / x.shape[-1]
        s = ((x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        f, y = of((x - mean) / (s + 1e-5))
        return f, y * s + mean

    return function


def skipping(
    of: Callable[[Tensor], tuple[Tensor, Tensor]], W_skip: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The function, and x W_skip added to its y; W_skip [D, E]."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        f, y = of(x)
        return f, y + x.double() @ W_skip.double()

    return function


def gated(w: Weights) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x.double() - w.b_dec.double()) @ w.W_enc.double()
        f = ((u + w.b_enc.double()) > 0) * (u * w.r.double().exp() + w.b_mag.double()).relu()
        return f, w.y(f)

    return function
