"""Where sparse and dense steps meet on this GPU, from steps at a run's own shape.

Random weights and activations, the encoder's bias such that a given share of the features is active: a sparse step at
`SETTLED` and at `BUSY`, and a dense one, which does not care. The border is where a line through the first two reaches
the third. The device's own clock, the least of some rounds, as whatever else the machine does only adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, Relu
from unmix.dictionary.terms import L0, L1, SquaredError
from unmix.kernels import gpu
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Task

SETTLED, BUSY = 0.005, 0.04
LEAST, MOST = 0.002, 0.5
"""Bounds of the border."""
ROUNDS = 5


class Times(NamedTuple):
    """Milliseconds of a step."""

    dense: float
    sparse: float
    """At `SETTLED` active."""
    sparse_busy: float
    """At `BUSY` active."""

    @property
    def border(self) -> float:
        """The active share at which a sparse step takes as long as a dense one."""
        slope = max(0.0, self.sparse_busy - self.sparse) / (BUSY - SETTLED)
        share = SETTLED + (self.dense - self.sparse) / slope if slope else MOST
        return min(MOST, max(LEAST, share))


def milliseconds(call: Callable[[], Any]) -> float:
    """The least of some rounds, after two that compile and make the memory."""
    call(), call()
    cuda: Any = torch.cuda
    taken = []
    for _ in range(ROUNDS):
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        cuda.synchronize()
        taken.append(start.elapsed_time(end))
    return float(min(taken))


def measure(width: int, features: int, tokens: int, device: torch.device, jumps: bool = False) -> Times:
    """Time the steps of a relu, or of a jumprelu; a fraction of a second, and the memory of one."""
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(tokens, width, generator=generator).to(device)
    W_enc_FD = torch.randn(features, width, generator=generator).to(device) / width**0.5
    W_dec_FD = torch.randn(features, width, generator=generator).to(device) / width**0.5
    weights = {"W_enc": W_enc_FD.T, "W_dec": W_dec_FD, "b_dec": x_BD.new_zeros(width)}
    task, workspace = Task(Relu(), ((1.0, SquaredError()), (1.0, L1()))), Workspace(features, W_dec_FD)
    if jumps:
        task = Task(JumpRelu(), ((1.0, SquaredError()), (1.0, L0())))
        weights["threshold"] = W_dec_FD.new_zeros(features)

    def timed(step: Callable[..., object], share: float) -> float:
        now = weights | {"b_enc": _bias(share, features, x_BD)}  # z ~ N(b, 1)
        gradients = {name: torch.empty_like(w) for name, w in now.items()}
        return milliseconds(lambda: step(x_BD, x_BD, now, gradients, task, workspace))

    return Times(timed(gpu.dense_step, BUSY), timed(gpu.step, SETTLED), timed(gpu.step, BUSY))


def _bias(share: float, features: int, like: Tensor) -> Tensor:
    """With which so much of N(b, 1) is above 0."""
    b = -math.sqrt(2) * torch.erfinv(torch.tensor(1 - 2 * share, dtype=torch.float64)).item()
    return like.new_full((features,), b)
