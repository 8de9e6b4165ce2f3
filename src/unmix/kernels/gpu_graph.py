"""A step on a GPU recorded and replayed: its hundred launches become one (a CUDA graph).

At few tokens a launch takes the host longer than its work takes the device. What a member's step does is the same from
step to step, up to the batch, the coefficients of its penalties and `stop`: these are copied to where a recorded step
reads them, and what it leaves is copied from where it writes, as the next one writes there too.

The first step with so many tokens is launched plainly, which compiles its kernels and makes its memory; the second is
recorded. A step whose shapes depend on which features are dead, or which is another each time, is always launched
plainly. Recorded steps run one after another, so that all of a workspace share their memory.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.terms import L0, L1, MoreActive, SquaredError, Tanh
from unmix.kernels.gpu import Pending
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Task, Weights

FIXED = SquaredError, MoreActive
PENALTIES = L1, L0, Tanh
"""Their coefficients may change; of all other terms it is the shape or the target that does."""
MOST = 200  # recorded steps of a member

Work = Callable[[Tensor, Tensor, Task, Tensor], tuple[Pending, Tensor]]
"""(x, y, task, stop) -> (what it will have come to, the square of the gradient)."""


def same_each_time(task: Task) -> bool:
    """Whether the next step does the same to another batch."""
    return task.noise is None and all(isinstance(term, FIXED + PENALTIES) for _, term in task.objective)


class Recorded(NamedTuple):
    """A step, the places that it reads, and what it leaves."""

    graph: Any
    x_BD: Tensor
    y_BE: Tensor
    task: Task
    stop_1: Tensor
    pending: Pending
    square_1: Tensor

    def replay(self, x_BD: Tensor, y_BE: Tensor, task: Task, stop_1: Tensor) -> tuple[Pending, Tensor]:
        """Put it in the device's queue."""
        self.x_BD.copy_(x_BD)
        if self.y_BE is not self.x_BD:
            self.y_BE.copy_(y_BE)
        for (place, _), (coefficient, _) in zip(self.task.objective, task.objective, strict=True):
            if isinstance(place, Tensor):
                place.copy_(coefficient) if isinstance(coefficient, Tensor) else place.fill_(coefficient)
        self.stop_1.copy_(stop_1)
        self.graph.replay()
        stop_1.copy_(self.stop_1)
        number_K, active_F, square_B, room, has_threshold = self.pending
        kept = Pending(number_K.clone(), active_F.clone(), square_B.clone(), room, has_threshold)
        return kept, self.square_1.clone()


class Replays:
    """The recorded steps of a member: one for each number of tokens, sparse and dense."""

    def __init__(self) -> None:
        self._of: dict[Any, tuple[Any, Recorded | None]] = {}
        self._fails = False

    def take(
        self,
        work: Work,
        x_BD: Tensor,
        y_BE: Tensor,
        task: Task,
        stop_1: Tensor,
        *,
        kind: object,
        weights: Weights,
        workspace: Workspace,
    ) -> tuple[Pending, Tensor]:
        """What `work` answers, replayed where it was recorded. `kind`: all that makes another work of it."""
        words, place = (x_BD, y_BE, task, stop_1), (kind, x_BD.shape, y_BE.shape)
        recorded, like = None, _like(task, weights, workspace)
        if place in self._of and self._of[place][0] == like:
            recorded = self._of[place][1] or self._record(work, x_BD, y_BE, task, stop_1, workspace)
        if recorded is not None:
            self._of[place] = like, recorded
            return recorded.replay(*words)
        found = work(*words)
        if place in self._of or len(self._of) < MOST:
            _places(x_BD, y_BE, workspace)
            self._of[place] = _like(task, weights, workspace), None  # it may have made memory
        return found

    def _record(
        self, work: Work, x_BD: Tensor, y_BE: Tensor, task: Task, stop_1: Tensor, workspace: Workspace
    ) -> Recorded | None:
        """Nothing is run. None where this device, or its version of torch, cannot."""
        if self._fails:
            return None
        x_at, y_at = _places(x_BD, y_BE, workspace)
        objective = tuple(
            (torch.zeros((), dtype=torch.float64, device=x_BD.device) if isinstance(term, PENALTIES) else c, term)
            for c, term in task.objective
        )
        task_at, stop_at = task._replace(objective=objective), torch.zeros_like(stop_1)
        try:
            graph, (pending, square_1) = record(lambda: work(x_at, y_at, task_at, stop_at), workspace)
        except RuntimeError as error:  # torch's own for what cannot be recorded
            self._fails = True
            said = str(error).partition("\n")[0]
            warnings.warn(f"steps are launched one by one, as one could not be recorded: {said}", stacklevel=2)
            return None
        return Recorded(graph, x_at, y_at, task_at, stop_at, pending, square_1)


def record(call: Callable[[], Any], workspace: Workspace) -> tuple[Any, Any]:
    """(a graph of what the call launches, what it answers); nothing is run."""
    cuda: Any = torch.cuda
    if workspace.recording is None:
        workspace.recording = cuda.graph_pool_handle(), cuda.Stream(workspace.like.device), None
    pool, stream, _ = workspace.recording
    graph, here, collects = cuda.CUDAGraph(), cuda.current_stream(workspace.like.device), gc.isenabled()
    stream.wait_stream(here)
    gc.disable()  # what is freed meanwhile must not be a graph
    try:
        with cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                found = call()
            finally:
                graph.capture_end()
    finally:
        if collects:
            gc.enable()
    here.wait_stream(stream)
    workspace.recording = pool, stream, graph  # memory that no graph has is given back, and its name is good no more
    return graph, found


def _places(x_BD: Tensor, y_BE: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Where recorded steps read x and y."""
    x_at = workspace.array("recorded x", x_BD.numel(), x_BD.dtype).view(x_BD.shape)
    if y_BE is x_BD:
        return x_at, x_at
    return x_at, workspace.array("recorded y", y_BE.numel(), y_BE.dtype).view(y_BE.shape)


def _like(task: Task, weights: Weights, workspace: Workspace) -> Any:
    """What has to be the same for a recorded step to do the right thing."""
    terms = [(type(term), term, None if isinstance(term, PENALTIES) else c) for c, term in task.objective]
    centre_E = task.error.centre_E
    at = [weight.data_ptr() for weight in weights.values()]
    return task.phi, terms, task.unit_norm, workspace.version, at, None if centre_E is None else centre_E.data_ptr()
