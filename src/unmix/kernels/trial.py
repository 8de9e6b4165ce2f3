"""How long a step of each kind takes on this machine, from steps at a run's own shape.

Random weights and activations, the encoder's bias such that a given share of the features is active. A step of B
tokens is timed at two numbers of rows, r < R, and a line through both is read at B:

    t(B) = t(R) + (B - R) (t(R) - t(r)) / (R - r)

so that what a step pays once, however many tokens it has, is counted once. R is what one encoder product of about
`FLOPS` operations allows, at least `FEWEST` and at most B. The least of some rounds counts, as whatever else the
machine does only adds; rounds are added until a second one has come within `ALIKE` of each least, or there are
`MOST_ROUNDS`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import Relu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels import cpu, dense, dense_bf16, find
from unmix.kernels.select import Precision
from unmix.kernels.task import Noise, Sums, Task, Weights

FLOPS = 4e9
"""Operations of the encoder's product over the rows that are timed: some 10 ms on two cores."""
FEWEST = 128
ALIKE, MOST_ROUNDS = 1.1, 6
SETTLED = 0.01
"""Active share at which the ways of selecting are compared: 100 of 10,000."""
BUSY = 0.08
"""A second one, which gives what an active feature costs."""
HOPELESS = 3.0
"""A number format whose product alone takes so many times fp32's is not tried any further."""
LEAST, MOST = 0.005, 0.5
"""Bounds of the border."""


def selections() -> list[str]:
    """The number formats that this build of torch can select in, fast or slow."""
    return ["fp32", "bf16", *(["int8"] if hasattr(torch, "_int_mm") else [])]


class Shape(NamedTuple):
    """What the time of a step depends on."""

    width: int
    features: int
    tokens: int
    dense_formats: tuple[str, ...] = ("fp32", "bf16")
    """Those that a dense step has a kernel for (`dispatch.dense_numbers`)."""
    noise: bool = False
    """Noise on the pre-activations: selection is in fp32."""


class Times(NamedTuple):
    """Seconds of a step of `Shape.tokens` tokens."""

    dense: dict[str, float]
    """By number format of its products; how many features are active does not matter."""
    sparse: dict[str, float]
    """By number format of the selection, at `SETTLED` active."""
    sparse_busy: float
    """With the fastest of these, at `BUSY` active."""
    rows: int
    """R, over which they were timed."""

    @property
    def border(self) -> float:
        """The active share at which the fastest sparse step takes as long as the fastest dense one."""
        settled = min(self.sparse.values())
        slope = max(0.0, self.sparse_busy - settled) / (BUSY - SETTLED)
        share = SETTLED + (min(self.dense.values()) - settled) / slope if slope else MOST
        return min(MOST, max(LEAST, share))


def measure(shape: Shape) -> Times:
    """Time the steps: about a second at D = 768, F = 10,000; for larger dictionaries about as long as one of them."""
    D, F, B, dense_formats, noise = shape
    R = min(B, max(FEWEST, int(FLOPS / (2 * D * F))))
    generator = torch.Generator().manual_seed(0)
    x_RD = torch.randn(R, D, generator=generator)
    settled, busy = (seeded_weights(D, F, share, generator) for share in (SETTLED, BUSY))
    gradients = {name: torch.empty_like(w) for name, w in settled.items()}
    task = Task(Relu(), ((1.0, SquaredError()), (1.0, L1())), Noise(1e-6, 0) if noise else None)
    possible = [name for name in selections() if _worth_trying(name, x_RD, settled)]
    selecting = ["fp32"] if noise else possible

    def sparse(selection: str, weights: Weights) -> Callable[[int], Sums]:
        workspace = find.Workspace(cast(Precision, selection))
        return lambda rows: cpu.step(x_RD[:rows], x_RD[:rows], weights, gradients, task, workspace)

    steps: dict[str, Callable[[int], Sums]] = {"dense fp32": _dense(x_RD, settled, gradients, task)}
    if "bf16" in possible and "bf16" in dense_formats:
        workspace = dense_bf16.Workspace(F, D, D)
        steps["dense bf16"] = lambda rows: dense_bf16.step(
            x_RD[:rows], x_RD[:rows], settled, gradients, task, workspace
        )
    steps |= {f"sparse {name}": sparse(name, settled) for name in selecting}
    found = _times(steps, R, B)
    of_sparse = {name: found[f"sparse {name}"] for name in selecting}
    best = min(of_sparse, key=lambda name: of_sparse[name])
    return Times(
        dense={name.removeprefix("dense "): t for name, t in found.items() if name.startswith("dense ")},
        sparse=of_sparse,
        sparse_busy=_times({"busy": sparse(best, busy)}, R, B)["busy"],
        rows=R,
    )


def _dense(x_RD: Tensor, weights: Weights, gradients: Weights, task: Task) -> Callable[[int], Sums]:
    workspace = dense.Workspace(len(weights["b_enc"]), weights["b_enc"])
    return lambda rows: dense.step(x_RD[:rows], x_RD[:rows], weights, gradients, task, workspace)


def seeded_weights(D: int, F: int, share: float, generator: torch.Generator) -> Weights:
    """A dictionary of which this share is active on Gaussian activations: z ~ N(b, 1)."""
    W_enc_FD = torch.randn(F, D, generator=generator) / D**0.5
    b = -math.sqrt(2) * torch.erfinv(torch.tensor(1 - 2 * share, dtype=torch.float64)).item()
    W_dec_FD = 0.1 * torch.randn(F, D, generator=generator) / D**0.5
    return {"W_enc": W_enc_FD.T, "b_enc": torch.full((F,), b), "W_dec": W_dec_FD, "b_dec": torch.zeros(D)}


def _worth_trying(name: str, x_RD: Tensor, weights: Weights) -> bool:
    """Whether a product in this format can be made, and is not many times as slow as in float32, by a small part."""
    if name == "fp32":
        return True
    x_RD, W_FD = x_RD[:64].contiguous(), weights["W_enc"].T[:1024].contiguous()
    plain = _least(lambda: torch.mm(x_RD, W_FD.T), 3)
    try:
        if name == "int8":
            x_int, W_int = (t.clamp(-1, 1).mul(127).to(torch.int8) for t in (x_RD, W_FD))
            return _least(lambda: torch._int_mm(x_int, W_int.T), 3) < HOPELESS * plain
        x_low, W_low = x_RD.bfloat16(), W_FD.bfloat16()
        return _least(lambda: torch.mm(x_low, W_low.T), 3) < HOPELESS * plain
    except RuntimeError:  # this build of torch has no such product
        return False


def _times(steps: dict[str, Callable[[int], Any]], R: int, B: int) -> dict[str, float]:
    """Seconds at B tokens of each, taking turns."""
    r = max(1, R // 4)
    sizes = (R,) if R == B else (r, R)
    taken: dict[tuple[str, int], list[float]] = {(name, rows): [] for name in steps for rows in sizes}
    for step in steps.values():
        step(R)  # compiles, and makes the memory
    for number in range(MOST_ROUNDS):
        for (name, rows), seconds in taken.items():
            if number < 2 or not _confirmed(seconds):
                seconds.append(_seconds(lambda: steps[name](rows)))  # noqa: B023
    least = {name: {rows: min(taken[name, rows]) for rows in sizes} for name in steps}
    if R == B:
        return {name: of[R] for name, of in least.items()}
    return {name: of[R] + (B - R) * max(0.0, of[R] - of[r]) / (R - r) for name, of in least.items()}


def _confirmed(seconds: list[float]) -> bool:
    """Whether the least was no accident: another is about as small."""
    first, second = sorted(seconds)[:2]
    return second <= ALIKE * first


def _least(call: Callable[[], object], rounds: int) -> float:
    call()
    return min(_seconds(call) for _ in range(rounds))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
