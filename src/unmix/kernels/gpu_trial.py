"""How a GPU finds what is active, and where its sparse and dense steps meet, from steps at a run's own shape.

Random weights and activations, the encoder's bias such that a given share of the features is active: a sparse step at
`SETTLED` by a product in float32 and by one in TF32, the faster of the two at `BUSY`, and a dense one, which does not
care. The border is where a line through the sparse ones reaches the dense one. The device's own clock, the least of
some rounds, as whatever else the machine does only adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import JumpRelu, Relu, TopK
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

    fp32: float
    """Sparse, at `SETTLED` active."""
    tf32: float
    """The same, candidates found in TF32."""
    busy: float | None
    """The faster of the two at `BUSY` active."""
    dense: float | None
    """None, as `busy`, where there are no dense steps."""

    @property
    def selection(self) -> str:
        """What finds candidates faster."""
        return "tf32" if self.tf32 < self.fp32 else "fp32"

    @property
    def border(self) -> float:
        """The active share at which a sparse step takes as long as a dense one."""
        if self.busy is None or self.dense is None:
            return MOST
        sparse = min(self.fp32, self.tf32)
        slope = max(0.0, self.busy - sparse) / (BUSY - SETTLED)
        share = SETTLED + (self.dense - sparse) / slope if slope else MOST
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


def measure(width: int, features: int, tokens: int, device: torch.device, of: str = "relu") -> Times:
    """Time the steps of a relu, a jumprelu or a topk; a fraction of a second, and the memory of one."""
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.randn(tokens, width, generator=generator).to(device)
    W_enc_FD = torch.randn(features, width, generator=generator).to(device) / width**0.5
    W_dec_FD = torch.randn(features, width, generator=generator).to(device) / width**0.5
    weights = {"W_enc": W_enc_FD.T, "W_dec": W_dec_FD, "b_dec": x_BD.new_zeros(width)}
    error = (1.0, SquaredError())
    tasks = {
        "relu": Task(Relu(), (error, (1.0, L1()))),
        "jumprelu": Task(JumpRelu(), (error, (1.0, L0()))),
        "topk": Task(TopK(max(1, round(SETTLED * features))), (error,)),
    }
    weights |= {"threshold": W_dec_FD.new_zeros(features)} if of == "jumprelu" else {}

    def timed(share: float, near: bool, step: Callable[..., object] = gpu.step) -> float:
        now = weights | {"b_enc": _bias(share, features, x_BD)}  # z ~ N(b, 1)
        gradients, workspace = {name: torch.empty_like(w) for name, w in now.items()}, Workspace(features, x_BD, near)
        return milliseconds(lambda: step(x_BD, x_BD, now, gradients, tasks[of], workspace))

    fp32, tf32 = timed(SETTLED, False), timed(SETTLED, True)
    if of == "topk":
        return Times(fp32, tf32, None, None)
    return Times(fp32, tf32, timed(BUSY, tf32 < fp32), timed(BUSY, False, gpu.dense_step))


def _bias(share: float, features: int, like: Tensor) -> Tensor:
    """With which so much of N(b, 1) is above 0."""
    b = -math.sqrt(2) * torch.erfinv(torch.tensor(1 - 2 * share, dtype=torch.float64)).item()
    return like.new_full((features,), b)
