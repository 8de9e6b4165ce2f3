"""Dense or sparse, chosen anew at each step from the density that the last one saw.

Below a few percent of active features the sparse step does less; at the start of training, when half of them are
active, the dense one does. Two thresholds keep a member near the border from going to and fro. The choice depends on
the member alone (its state is in its checkpoint), so that a run resumes to the same bits.
"""

from __future__ import annotations

from torch import Tensor

from unmix.kernels import cpu, dense
from unmix.kernels.reference import Objective, Sums, Weights

SPARSE_BELOW, DENSE_ABOVE = 0.08, 0.11


class Step:
    """A training step with its kept memory; the same call as `reference.step`."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.features, self.like = features, like
        self.sparse = False
        self._dense: dense.Workspace | None = None
        self._sparse: cpu.Workspace | None = None

    def __call__(self, x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective) -> Sums:
        if self.sparse:
            self._dense, self._sparse = None, self._sparse or cpu.Workspace(self.features, self.like)
            sums = cpu.step(x_BD, weights, gradients, objective, self._sparse)
        else:
            self._dense, self._sparse = self._dense or dense.Workspace(self.features, self.like), None
            sums = dense.step(x_BD, weights, gradients, objective, self._dense)
        density = sums.active_F.sum().item() / (len(x_BD) * self.features)
        self.sparse = density < (DENSE_ABOVE if self.sparse else SPARSE_BELOW)
        return sums
