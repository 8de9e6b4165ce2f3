"""Dense or sparse, chosen anew at each step from the density that the last one saw.

Below a few percent of active features the sparse step does less; at the start of training, when half of them are
active, the dense one does. Two thresholds keep a member near the border from going to and fro. The choice depends on
the member alone (its state is in its checkpoint), so that a run resumes to the same bits.

Tensors that lie on a GPU go to its kernels, the step's and the update's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unmix.kernels import cpu, dense, rows
from unmix.kernels.reference import Adam, Objective, Sums, Weights
from unmix.kernels.select import Precision

SPARSE_BELOW, DENSE_ABOVE = 0.08, 0.11


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
    """A training step; the same call as `reference.step`. `select`: how the sparse one finds what is active."""

    def __init__(self, select: Precision = "fp32", scratch: Scratch | None = None) -> None:
        self.select, self.scratch = select, scratch or Scratch()
        self.sparse = False

    def __call__(self, x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
        F = len(weights.b_enc_F)
        if x_BD.is_cuda:
            from unmix.kernels import gpu, gpu_workspace  # only the files gpu* need triton

            workspace = self.scratch.get(("gpu", F), lambda: gpu_workspace.Workspace(F, weights.b_enc_F))
            return gpu.step(x_BD, weights, gradients, objective, workspace)  # it chooses from the batch itself
        if self.sparse:
            workspace = self.scratch.get(self.select, lambda: cpu.Workspace(self.select))
            sums = cpu.step(x_BD, weights, gradients, objective, workspace)
        else:
            workspace = self.scratch.get(("dense", F), lambda: dense.Workspace(F, weights.b_enc_F))
            sums = dense.step(x_BD, weights, gradients, objective, workspace)
        density = sums.active_F.sum().item() / (len(x_BD) * F)
        self.sparse = density < (DENSE_ABOVE if self.sparse else SPARSE_BELOW)
        return sums


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """An update; the same call as `reference.adam`."""
    if weights.b_enc_F.is_cuda:
        from unmix.kernels import gpu_adam

        gpu_adam.adam(weights, gradients, first, second, how)
    else:
        rows.adam(weights, gradients, first, second, how)
