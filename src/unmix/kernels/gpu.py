"""The same step as `reference` on a GPU: the encoder's product by cuBLAS, and after it only what is active (Triton).

    1  z = x W_enc, a tile of tokens at a time; what is active of z + b_enc becomes sparse rows   gpu_find, gpu_largest
    2  what the tokens, then what the features come to                                            gpu_sparse

`gpu_dense` does less where much is active; `gpu_covers` says which tasks these know. No number is added up by several
programs at once: the same inputs give the same bits.

`launch` does not wait for the device, but with an AuxK or a `PreActivation`: what it answers may be read whenever the
host likes, many steps later. There is one thing that the device alone finds out: that more is active than there is room
for. Then it sets `stop`, and no kernel writes anything any more, not even an update (`gpu_adam`), until the host, which
reads that, has made room and launched the step anew. `step` does so at once, and waits for the device once.

Needs torch and triton alone. All sums are in the precision of the weights (squares in float64). Candidates may be found
by a product in TF32 (`gpu_near`); what is active, and its values, never are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmix.dictionary.nonlinearities import AbsTopK, BatchTopK, JumpRelu, TanhRelu, TopK
from unmix.dictionary.terms import L0, L1, AuxK, L0Target, MoreActive, PreActivation, SquaredError, Tanh
from unmix.kernels import gpu_find, gpu_largest, gpu_near, gpu_sparse
from unmix.kernels.dead import add_auxk, add_preactivation
from unmix.kernels.gpu_dense import dense
from unmix.kernels.gpu_find import Entries
from unmix.kernels.gpu_launch import device_of, products
from unmix.kernels.gpu_sparse import Features, Found
from unmix.kernels.gpu_workspace import Workspace, go
from unmix.kernels.task import Number, Sums, Task, Weights


class Pending(NamedTuple):
    """What a step will have come to, on the device."""

    number_K: Tensor
    """`stop`, entries found, Σ_F active, Σ||ŷ - y||², penalty, threshold, and the terms; float64."""
    active_F: Tensor
    square_B: Tensor
    room: str
    """Of what the entries were that there has to be room for."""
    has_threshold: bool

    @property
    def sums(self) -> Sums:
        """Of the batch, unread."""
        return self._sums(list(self.number_K.unbind()))

    def read(self) -> Read:
        """Wait for the device."""
        stop, needed, active, *_ = numbers = self.number_K.tolist()
        share = active / (len(self.square_B) * len(self.active_F))
        return Read(self._sums(numbers), bool(stop), int(needed), share)

    def _sums(self, numbers: Sequence[Number]) -> Sums:
        _, needed, _, squared_error, penalty, threshold, *terms = numbers
        kept = threshold if self.has_threshold else None
        return Sums(squared_error, tuple(terms), penalty, self.active_F, self.square_B, kept, self.room, needed)


class Read(NamedTuple):
    """What a step has come to."""

    sums: Sums
    stopped: bool
    """The sums are not there, nor the gradients: there was not enough room, now or in a step before it."""
    needed: int
    """Entries that it wanted room for."""
    density: float
    """Of (B, F), the active share."""


def step(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    workspace: Workspace,
    at_most: float = 1.0,
) -> tuple[Sums, float] | None:
    """(as `reference.step`, up to rounding; the active share). None where more than `at_most` of (B, F) would have to
    be looked at: nothing is known of such a batch then, and a dense step does less.
    """
    while True:
        stop_1 = go(x_BD)
        pending = launch(x_BD, y_BE, weights, gradients, task, workspace, stop_1)
        sums, stopped, needed, density = pending.read()
        if pending.room == "entries" and needed > at_most * len(x_BD) * workspace.features:
            return None
        if not stopped:
            return sums, density
        workspace.make_room(pending.room, needed)


def dense_step(
    x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, workspace: Workspace
) -> tuple[Sums, float]:
    """The same by dense products."""
    sums, _, _, density = launch(x_BD, y_BE, weights, gradients, task, workspace, go(x_BD), by=dense).read()
    return sums, density


def launch(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    workspace: Workspace,
    stop_1: Tensor,
    by: Any = None,
) -> Pending:
    """Put a step in the device's queue; the gradients are there when it has come to it."""
    x_BD, y_BE = x_BD.contiguous(), y_BE.contiguous()
    rows = {name: w.T.contiguous().T if name == "W_enc" else w.contiguous() for name, w in weights.items()}
    out = {name: _rows_like(g.T).T if name == "W_enc" else _rows_like(g) for name, g in gradients.items()}
    w_F = rows["W_dec"].norm(dim=1)
    with device_of(x_BD), products(tf32=False):
        found = (by or _sparse)(x_BD, y_BE, rows, out, task, workspace, w_F, stop_1)
    for name, theirs in gradients.items():
        if out[name].data_ptr() != theirs.data_ptr():
            theirs.copy_(out[name])
    square_B, features = found.square_B, found.features
    penalty = _penalty(task, features, w_F)
    threshold_1 = penalty.new_zeros(1) if found.threshold_1 is None else found.threshold_1
    first = stop_1[0], found.needed_1[0], features.active_F.sum(), square_B.sum(), penalty, threshold_1[0]
    return Pending(
        torch.stack([number.to(torch.float64) for number in (*first, *found.terms)]),
        features.active_F,
        square_B,
        "candidates" if isinstance(task.phi, TopK | AbsTopK | BatchTopK) else "entries",
        isinstance(task.phi, BatchTopK),
    )


def _sparse(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    workspace: Workspace,
    w_F: Tensor,
    stop_1: Tensor,
) -> Found:
    end_P, r_B = workspace.ends(task.error.prefixes), task.error.weigh(y_BE)
    entries, needed_1, threshold_1 = _find(x_BD, weights, task, workspace, w_F, stop_1)
    if isinstance(task.phi, TanhRelu):
        entries.value_N.tanh_()
    rows = gpu_sparse.by_token(y_BE, weights, task, entries, r_B, end_P, stop_1)
    features = gpu_sparse.by_feature(x_BD, weights, gradients, task, entries, rows, w_F, end_P, stop_1)
    torch.sum(rows.g_PBE[0], 0, out=gradients["b_dec"])
    found: dict[type, Any] = {
        SquaredError: (rows.error_B * r_B).sum(),
        L1: _penalty(task, features, w_F),
        L0: features.active_F.sum(dtype=torch.float64),
        Tanh: features.tanh_F.sum(dtype=torch.float64),
    }
    if isinstance(target := task.term(L0Target), L0Target):
        found[L0Target] = 2 / target.target * (rows.active_B - target.target).square().sum()
    if isinstance(dead := task.term(PreActivation), PreActivation):
        found[PreActivation] = add_preactivation(x_BD, weights, gradients, task.coefficient(PreActivation), dead)
    if isinstance(auxk := task.term(AuxK), AuxK) and rows.e_BE is not None:
        found[AuxK] = add_auxk(x_BD, y_BE, rows.e_BE, weights, gradients, task.coefficient(AuxK), auxk)
    if isinstance(more := task.term(MoreActive), MoreActive):  # last: it uses the workspace anew
        its_own = {name: torch.empty_like(gradient) for name, gradient in gradients.items()}
        asked = Task(more.phi, ((1.0, more.error),), task.noise)
        second = _sparse(x_BD, y_BE, weights, its_own, asked, workspace, w_F, stop_1)
        for name, gradient in its_own.items():
            gradients[name].add_(gradient, alpha=task.coefficient(MoreActive))
        found[MoreActive], needed_1 = second.terms[0], torch.maximum(needed_1, second.needed_1)
    return Found(rows.square_B, features, needed_1, threshold_1, tuple(found[type(term)] for _, term in task.objective))


def _find(
    x_BD: Tensor, weights: Weights, task: Task, workspace: Workspace, w_F: Tensor, stop_1: Tensor
) -> tuple[Entries, Tensor, Tensor | None]:
    """(what is active, how many entries there had to be room for, the least contribution that a batchtopk kept)."""
    match task.phi:
        case TopK() | AbsTopK() as phi:
            return *gpu_largest.topk(x_BD, weights, phi, task.noise, workspace, w_F, stop_1), None
        case BatchTopK() as phi:
            return gpu_largest.batchtopk(x_BD, weights, phi, task.noise, workspace, w_F, stop_1)
        case JumpRelu(bandwidth):
            floor_F = weights["threshold"] - bandwidth / 2  # those up to the threshold are 0, and reach it alone
        case _:
            floor_F = torch.zeros_like(w_F)
    B = len(x_BD)
    room = workspace.room("entries", B)
    entries = gpu_largest.entries(workspace, B, room)
    near = workspace.margin(x_BD, weights, task.noise)
    for first in range(0, B, workspace.tile):
        part = slice(first, first + workspace.tile)
        base_1, margin = entries.start_B1[first : first + 1], near and near.of(part)
        z_TF = workspace.encode(x_BD[part], weights, task.noise, first, margin)
        end_TC = gpu_find.ends(z_TF, weights["b_enc"], floor_F, margin, base_1)
        entries.start_B1[first + 1 : first + len(z_TF) + 1] = end_TC[:, -1]
        gpu_find.stop_beyond(stop_1, end_TC, room)
        gpu_find.compact(z_TF, weights["b_enc"], floor_F, margin, base_1, end_TC, first, entries[1:], stop_1)
    if near:
        gpu_near.refine(x_BD, weights, entries, None, not isinstance(task.phi, JumpRelu), stop_1)
    return entries, entries.start_B1[-1:], None


def _penalty(task: Task, features: Features, w_F: Tensor) -> Tensor:
    """Σ_B Σ_i w_i |f_i|."""
    total_F = features.total_F.double()
    return (total_F * w_F).sum() if task.weigh_by_norm else total_F.sum()


def _rows_like(gradient: Tensor) -> Tensor:
    """The tensor itself if its rows lie one after the other, else a new one to be copied from."""
    return gradient if gradient.is_contiguous() else torch.empty_like(gradient, memory_format=torch.contiguous_format)
