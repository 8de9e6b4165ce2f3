"""Dense or sparse, chosen anew at each step from the density that the last one saw.

Below some percent of active features the sparse step does less; at the start of training, when half of them are
active, the dense one does. Where they meet (the border) depends on the machine, on the shape and on the number format
of the dense products: a run measures it (`trial`). Two thresholds keep a member near the border from switching back and
forth. The choice depends on the member alone (its state is in its checkpoint), so that a run resumes to the same bits.

Tensors that lie on a GPU go to its kernels, the step's and the update's; on any other device the definition is run. A
step that is called is read at once; one that is launched leaves its numbers on the device, and what they say of the
next one is told by `saw` and `make_room` when they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, Nonlinearity, Relu, TanhRelu, TopK
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels import autocast, compiled, cpu, dense, dense_bf16, find, portable, reference, rows, tiles
from unmix.kernels.aligned import tangent
from unmix.kernels.select import Precision
from unmix.kernels.task import Adam, Sums, Task, Weights

Dense = Literal["fp32", "bf16"]
Selection = Precision | Literal["tf32"]


BORDER = 0.12
"""Where none was measured: with dense products in float32, on two cores of one EPYC, they met there."""
HYSTERESIS = 1.25
"""A sparse member goes back to dense steps at so many times the border."""


def dense_numbers(asked: Dense, phi: Nonlinearity, noise: bool) -> Dense:
    """What a dense step multiplies: float32 where bf16 is not asked for, with noise, and with tanh (`dense_bf16`)."""
    return "bf16" if asked == "bf16" and isinstance(phi, Relu) and not noise else "fp32"


def is_plain(task: Task) -> bool:
    """Whether the dense kernels know it: relu or tanh(relu), squared error and L1."""
    known = isinstance(task.phi, Relu | TanhRelu) and task.only(SquaredError, L1)
    return known and not task.error.prefixes and bool(task.coefficient(SquaredError) == 1)


def always_sparse(task: Task) -> bool:
    """Whether a nonlinearity keeps few features whatever its weights."""
    return isinstance(task.phi, TopK | AbsTopK | BatchTopK)


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

    `select`: how the sparse one finds what is active; on a GPU by a product in TF32, if not in fp32, and on the
    processor in fp32 if it is to be TF32. `dense`: what the dense one multiplies, see `dense_numbers`; and what the
    definition does, where no kernel is made for a device (`autocast`). `border`: the active share below which it is
    sparse; None: what is usual on the device. `portable`: the definition, and no kernel made for a device.
    `compiled`: the definition through `torch.compile`.
    """

    def __init__(
        self,
        select: Selection = "fp32",
        dense: Dense = "fp32",
        scratch: Scratch | None = None,
        border: float | None = None,
        portable: bool = False,
        compiled: bool = False,
    ) -> None:
        self.select, self.dense, self.scratch, self.border = select, dense, scratch or Scratch(), border
        self.portable, self.compiled, self.sparse = portable, compiled, False
        self.replays: Any = None
        """The steps that a GPU has recorded (`gpu_graph.Replays`); False where they are to be launched one by one."""

    def __call__(self, x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task) -> Sums:
        words = x_BD, y_BE, weights, gradients, task
        match self._kernels(x_BD):
            case "portable":
                return self._by_definition(*words).read()
            case "cuda":
                return self._on_gpu(*words)
        F, D, E = len(weights["b_enc"]), x_BD.shape[1], y_BE.shape[1]
        if (self.sparse or always_sparse(task)) and cpu.covers(task):
            select: Precision = "fp32" if self.select == "tf32" else self.select
            sums = cpu.step(*words, self.scratch.get(select, lambda: find.Workspace(select)))
        elif not is_plain(task):
            sums = tiles.step(*words)
        elif dense_numbers(self.dense, task.phi, task.noise is not None) == "bf16" and x_BD.dtype == torch.float32:
            sums = dense_bf16.step(*words, self.scratch.get(("bf16", F, D, E), lambda: dense_bf16.Workspace(F, D, E)))
        else:
            make = partial(dense.Workspace, F, weights["b_enc"])
            sums = dense.step(*words, self.scratch.get(("dense", F), make))
        self.saw(sums.active_F.sum().item() / (len(x_BD) * F), x_BD)
        return sums

    def late(self, where: Tensor) -> bool:
        """Whether its numbers can be left on the device: not those of the kernels for the processor."""
        return self._kernels(where) != "cpu"

    def launch(
        self,
        x_BD: Tensor,
        y_BE: Tensor,
        weights: Weights,
        gradients: Weights,
        task: Task,
        stop_1: Tensor,
        aligned: bool = False,
    ) -> tuple[Sums, Tensor]:
        """(the same without waiting for the device, the square of the gradient, ()): both stay there until they are
        read. Then call `saw`. `aligned`: the gradient is that of aligned training.

        Where `stop` is set, or becomes set because there is not enough room on a GPU, nothing comes of it: `make_room`.
        """
        sparse = self.sparse or always_sparse(task)
        if self._kernels(x_BD) == "portable" or not _on_gpu_by_kernels(task, sparse):
            sums = self._by_definition(x_BD, y_BE, weights, gradients, task)
            if aligned:
                tangent(weights, gradients)
            return sums, self.square(weights, gradients, task.unit_norm)
        from unmix.kernels import gpu, gpu_adam, gpu_dense, gpu_graph

        workspace, by = self._workspace(weights), None if sparse else gpu_dense.dense

        def work(x_BD: Tensor, y_BE: Tensor, task: Task, stop_1: Tensor) -> tuple[gpu.Pending, Tensor]:
            pending = gpu.launch(x_BD, y_BE, weights, gradients, task, workspace, stop_1, by)
            if aligned:
                tangent(weights, gradients)
            return pending, gpu_adam.square(weights, gradients, task.unit_norm)

        words = x_BD, y_BE, task, stop_1
        if self.replays is None and x_BD.is_cuda:
            self.replays = gpu_graph.Replays()
        if not self.replays or not gpu_graph.same_each_time(task):
            pending, square_1 = work(*words)
        else:
            what: dict[str, Any] = {"kind": (sparse, aligned), "weights": weights, "workspace": workspace}
            pending, square_1 = self.replays.take(work, *words, **what)
        return pending.sums, square_1[0]

    def make_room(self, sums: Sums, weights: Weights) -> None:
        """After sums that were read and had not enough of it; or take that step densely, where this does less."""
        needed, all_of_them = int(sums.needed), sums.active_F.numel() * len(sums.square_B)
        if sums.room == "entries" and needed > HYSTERESIS * self._gpu_border() * all_of_them:
            self.sparse = False
        else:
            self._workspace(weights).make_room(sums.room, needed)

    def saw(self, density: float, where: Tensor) -> None:
        """Choose the next step from this active share of a batch on the device of `where`."""
        match self._kernels(where):
            case "cpu":
                border = BORDER if self.border is None else self.border
            case "cuda":
                border = self._gpu_border()
            case _:
                return
        self.sparse = density < border * (HYSTERESIS if self.sparse else 1)

    def square(self, weights: Weights, gradients: Weights, unit_norm: bool) -> Tensor:
        """As `finish`, left on the device, ()."""
        if self._kernels(weights["b_enc"]) == "cuda":
            from unmix.kernels import gpu_adam

            return gpu_adam.square(weights, gradients, unit_norm)[0]
        return reference.square(weights, gradients, unit_norm)

    def finish(self, weights: Weights, gradients: Weights, unit_norm: bool) -> float:
        """The last touch to gradients, once they are those of the whole batch; the call of `reference.finish`."""
        match self._kernels(weights["b_enc"]):
            case "cpu":
                return rows.finish(weights, gradients, unit_norm)
            case "cuda":
                from unmix.kernels import gpu_adam

                return gpu_adam.finish(weights, gradients, unit_norm)
        return reference.finish(weights, gradients, unit_norm)

    def adam(self, weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
        """An update; the same call as `reference.adam`."""
        words = weights, gradients, first, second, how
        match self._kernels(weights["b_enc"]):
            case "cpu":
                rows.adam(*words)
            case "cuda":
                from unmix.kernels import gpu_adam

                shrink_1 = how.shrink.view(1) if isinstance(how.shrink, Tensor) else None
                gpu_adam.adam(*words, how.stop_1, shrink_1)
            case _:
                reference.adam(*words)

    def moments(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_B x² and Σ_B x, (D,)."""
        return rows.moments(x_BD) if self._kernels(x_BD) == "cpu" else portable.moments(x_BD)

    def _kernels(self, where: Tensor) -> str:
        """The device whose kernels are used; `portable` where there are none."""
        kind = where.device.type
        made = kind == "cpu" or (kind == "cuda" and find_spec("triton") is not None)
        return kind if made and not self.portable else "portable"

    def _by_definition(self, x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task) -> Sums:
        """Without waiting. A tanh near 1 has a slope that rounding z would make another (`dense_bf16`)."""
        low = self.dense == "bf16" and not isinstance(task.phi, TanhRelu)
        launch = autocast.launch if low else reference.launch
        words = x_BD, y_BE, weights, gradients, task
        if not self.compiled:
            return tiles.launch(*words, launch)
        with compiled.attempt():
            return tiles.launch(*words, partial(launch, passed=compiled.passed))

    def _on_gpu(self, x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task) -> Sums:
        """Sparse or dense as above; a batch in which more is active than a sparse step is for is taken densely."""
        from unmix.kernels import gpu_covers

        words = x_BD, y_BE, weights, gradients, task
        if not gpu_covers.covers(task):
            return self._by_definition(*words).read()
        from unmix.kernels import gpu  # only this file needs triton

        F, always, workspace = len(weights["b_enc"]), always_sparse(task), self._workspace(weights)
        most = 1.0 if always else HYSTERESIS * self._gpu_border()
        found = gpu.step(*words, workspace, most) if self.sparse or always else None
        if found is None and not gpu_covers.dense_covers(task):
            sums = self._by_definition(*words).read()
            found = sums, sums.active_F.sum().item() / (len(x_BD) * F)
        sums, density = found or gpu.dense_step(*words, workspace)
        self.saw(density, x_BD)
        return sums

    def _workspace(self, weights: Weights) -> Any:
        from unmix.kernels import gpu_workspace

        F, b_enc_F = len(weights["b_enc"]), weights["b_enc"]
        near = self.select != "fp32" and b_enc_F.dtype == torch.float32
        return self.scratch.get(("gpu", F, b_enc_F.dtype, near), lambda: gpu_workspace.Workspace(F, b_enc_F, near))

    def _gpu_border(self) -> float:
        from unmix.kernels import gpu_workspace

        return gpu_workspace.DENSE_ABOVE if self.border is None else self.border


def _on_gpu_by_kernels(task: Task, sparse: bool) -> bool:
    """Whether the GPU's kernels know the task, as sparsely or as densely as it is wanted."""
    from unmix.kernels import gpu_covers

    return gpu_covers.covers(task) and (sparse or gpu_covers.dense_covers(task))
