"""Dense or sparse, chosen anew at each step from the density that the last one saw.

Below some percent of active features the sparse step does less; at the start of training, when half of them are
active, the dense one does. Where they meet (the border) depends on the machine, on the shape and on the number format
of the dense products: a run measures it (`trial`). Two thresholds keep a member near the border from switching back and
forth. The choice depends on the member alone (its state is in its checkpoint), so that a run resumes to the same bits.

Tensors that lie on a GPU go to its kernels, the step's and the update's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from unmix.kernels import cpu, dense, dense_bf16, rows
from unmix.kernels.reference import Adam, Objective, Sums, Weights
from unmix.kernels.select import Precision

Dense = Literal["fp32", "bf16"]


BORDER = 0.12
"""Where none was measured: with dense products in float32, on two cores of one EPYC, they met there."""
HYSTERESIS = 1.25
"""A sparse member goes back to dense steps at so many times the border."""


def dense_numbers(asked: Dense, phi: str, noise: bool) -> Dense:
    """What a dense step multiplies: float32 where bf16 is not asked for, with noise, and with tanh (`dense_bf16`)."""
    return "bf16" if asked == "bf16" and phi == "relu" and not noise else "fp32"


class Scratch:
    """The memory of steps, made when first needed and kept. Members that take their steps in turn share one."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def get(self, kind: Any, make: Callable[[], Any]) -> Any:
        """What was made for this kind."""
        if kind not in self._kept:
            self._kept[kind] = make()
        return self._kept[kind]


class Step:
    """A training step; the same call as `reference.step`.

    `select`: how the sparse one finds what is active. `dense`: what the dense one multiplies, see `dense_numbers`.
    `border`: the active share below which it is sparse.
    """

    def __init__(
        self,
        select: Precision = "fp32",
        dense: Dense = "fp32",
        scratch: Scratch | None = None,
        border: float = BORDER,
    ) -> None:
        self.select, self.dense, self.scratch, self.border = select, dense, scratch or Scratch(), border
        self.sparse = False

    def __call__(self, x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
        F = len(weights.b_enc_F)
        if x_BD.is_cuda:
            from unmix.kernels import gpu, gpu_workspace  # only the files gpu* need triton

            workspace = self.scratch.get(("gpu", F), lambda: gpu_workspace.Workspace(F, weights.b_enc_F))
            return gpu.step(x_BD, weights, gradients, objective, workspace)  # it chooses from the batch itself
        numbers = dense_numbers(self.dense, objective.phi, objective.noise is not None)
        if x_BD.dtype != torch.float32:
            numbers = "fp32"  # or what the weights are in
        if self.sparse:
            workspace = self.scratch.get(self.select, lambda: cpu.Workspace(self.select))
            sums = cpu.step(x_BD, weights, gradients, objective, workspace)
        elif numbers == "bf16":
            D = x_BD.shape[1]
            workspace = self.scratch.get(("bf16", F, D), lambda: dense_bf16.Workspace(F, D))
            sums = dense_bf16.step(x_BD, weights, gradients, objective, workspace)
        else:
            workspace = self.scratch.get(("dense", F), lambda: dense.Workspace(F, weights.b_enc_F))
            sums = dense.step(x_BD, weights, gradients, objective, workspace)
        density = sums.active_F.sum().item() / (len(x_BD) * F)
        self.sparse = density < self.border * (HYSTERESIS if self.sparse else 1)
        return sums


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """An update; the same call as `reference.adam`."""
    if weights.b_enc_F.is_cuda:
        from unmix.kernels import gpu_adam

        gpu_adam.adam(weights, gradients, first, second, how)
    else:
        rows.adam(weights, gradients, first, second, how)
