"""Whether the portable step's products are faster in bf16 on this device, from steps at a run's own shape.

Random weights and activations with a mean as long as what is around it. A step in bf16 whose gradients are not those
in float32, up to rounding, is not taken however fast it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from unmix.dictionary.nonlinearities import Relu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels import autocast, reference, tiles
from unmix.kernels.task import Task, Weights
from unmix.kernels.trial import FEWEST, FLOPS, SETTLED, seeded_weights

ROUNDS = 3
APART = 0.03
"""Most that a gradient in bf16 may differ from the one in float32, relative to its length."""


def measure(width: int, features: int, tokens: int, device: torch.device) -> dict[str, float]:
    """Seconds of a step over `rows` tokens by the format of its products; `rows` stands beside them."""
    rows = min(tokens, max(FEWEST, int(FLOPS / (2 * width * features))))
    generator = torch.Generator().manual_seed(0)
    x_RD = (torch.randn(rows, width, generator=generator) + torch.randn(width, generator=generator)).to(device)
    weights = {name: w.to(device) for name, w in seeded_weights(width, features, SETTLED, generator).items()}
    task = Task(Relu(), ((1.0, SquaredError()), (1.0, L1())))
    gradients: dict[str, Weights] = {}

    def step(name: str, of_tile: tiles.Launch) -> Callable[[], Any]:
        own = gradients[name] = {name: torch.empty_like(w) for name, w in weights.items()}
        return lambda: tiles.step(x_RD, x_RD, weights, own, task, of_tile)

    found = {"rows": float(rows), "fp32": _least(step("fp32", reference.launch))}
    try:
        seconds = _least(step("bf16", autocast.launch))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # this device, or this build of torch, has no such product
        return found
    pairs = ((gradients["bf16"][name], g) for name, g in gradients["fp32"].items())
    alike = all((low - g).norm() <= APART * g.norm() for low, g in pairs)
    return found | ({"bf16": seconds} if alike else {})


def _least(call: Callable[[], Any]) -> float:
    """Of some rounds, after one that makes the memory. A step is read when it returns, so the device has done it."""
    call()
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)
