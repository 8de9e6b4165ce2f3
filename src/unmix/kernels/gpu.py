"""The same step as `reference` on a GPU: the encoder's product by cuBLAS, and after it only what is active (Triton).

    1  z = x W_enc, a tile of tokens at a time; its active entries (z + b_enc > 0) become sparse rows (CSR)
    2  per token:    x̂ from the decoder rows of its active features, g = (2/B)(x̂ - x) / ||x||^k, and for each of
                     them dz_i = (g · W_dec_i + (l1/B) w_i) phi'_i
    3  per feature:  the tokens on which it was active (CSC: a stable sort by feature) give dW_dec_i = Σ f g and
                     dW_enc_i = Σ dz x, and its part of the penalty

Where more than `workspace.dense_above` of the first tile is active, `gpu_dense` does less. No number is added up by
several programs at once: the same inputs give the same bits. The host waits for the device twice in a step, to size the
sparse rows (once per tile, and a tile is mostly the whole batch) and to read the sums. NaN counts as active, so that it
is seen and not dropped.

Needs torch and triton alone. All sums are in the precision of the weights (squares in float64), never in TF32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.dictionary.nonlinearities import TanhRelu
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels.gpu_dense import dense
from unmix.kernels.gpu_launch import FUSED, device_of, warps
from unmix.kernels.gpu_workspace import Workspace
from unmix.kernels.task import Noise, Sums, Task, Weights

CHUNK = 2048  # of a token's features, looked through by one program
GATHERED = 8192  # numbers that a program asks for at once: rows times D, in powers of 2


def step(x_BD: Tensor, y_BE: Tensor, weights: Weights, gradients: Weights, task: Task, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    if y_BE.shape != x_BD.shape:
        raise ValueError(f"these kernels want a target as wide as x: {list(y_BE.shape)}, {list(x_BD.shape)}")
    x_BD, y_BE = x_BD.contiguous(), y_BE.contiguous()
    W_enc_FD, W_dec_FD = weights["W_enc"].T.contiguous(), weights["W_dec"].contiguous()
    biases = {name: weights[name].contiguous() for name in ("b_enc", "b_dec")}
    weights = {"W_enc": W_enc_FD.T, "W_dec": W_dec_FD, **biases}
    out = {name: _rows_like(g.T).T if name == "W_enc" else _rows_like(g) for name, g in gradients.items()}
    norm_F = W_dec_FD.norm(dim=1) if task.weigh_by_norm else torch.ones_like(weights["b_enc"])
    r_B = task.error.weigh(x_BD)
    with device_of(x_BD), _without_tf32():
        active = _find(x_BD, weights, task.noise, workspace)
        if active is None:
            found = dense(x_BD, y_BE, weights, out, task, workspace, norm_F, r_B)
        else:
            found = _sparse(x_BD, y_BE, weights, out, task, active, norm_F, r_B)
    for name, theirs in gradients.items():
        mine = out[name]
        if mine.data_ptr() != theirs.data_ptr():
            theirs.copy_(mine)
    square_B, total_F, active_F = found
    sums = [square_B.sum(), (square_B * r_B).sum(), (total_F * norm_F).sum(dtype=torch.float64)]
    squared_error, reconstruction, penalty = torch.stack(sums).tolist()
    terms = task.values({SquaredError: reconstruction, L1: penalty})
    return Sums(squared_error, terms, penalty, active_F, square_B.double())


class _Active(NamedTuple):
    """The active entries as sparse rows, in the order of (token, feature)."""

    start_B1: Tensor
    feature_N: Tensor
    token_N: Tensor
    z_N: Tensor


def _find(x_BD: Tensor, weights: Weights, noise: Noise | None, workspace: Workspace) -> _Active | None:
    """What is active; None where that is more than `workspace.dense_above` of the first tile, whose z stays there."""
    starts, features, tokens, values = [torch.zeros(1, dtype=torch.int64, device=x_BD.device)], [], [], []
    entries = 0
    for first in range(0, len(x_BD), workspace.tile):
        z_TF = workspace.encode(x_BD, weights, noise, first)
        end_TC = _ends(z_TF, weights["b_enc"])
        here = int(end_TC[-1, -1].item())  # the host waits
        if first == 0 and here > workspace.dense_above * z_TF.numel():
            return None
        feature_n, token_n, z_n = _compact(z_TF, weights["b_enc"], end_TC, here, first)
        starts.append(end_TC[:, -1] + entries)
        features.append(feature_n)
        tokens.append(token_n)
        values.append(z_n)
        entries += here
    return _Active(*map(_joined, (starts, features, tokens, values)))


def _ends(z_TF: Tensor, b_enc_F: Tensor) -> Tensor:
    """Where in the sparse rows the entries of each chunk of each token end, (T, C)."""
    T, F = z_TF.shape
    count_TC = torch.empty(T, triton.cdiv(F, CHUNK), dtype=torch.int32, device=z_TF.device)
    _count_kernel[count_TC.shape](z_TF, b_enc_F, count_TC, F, CHUNK=CHUNK, **FUSED)
    return count_TC.view(-1).cumsum(0, dtype=torch.int64).view_as(count_TC)


def _compact(z_TF: Tensor, b_enc_F: Tensor, end_TC: Tensor, entries: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Feature, token and value of each active entry, in the order of (token, feature)."""
    feature_n = torch.empty(entries, dtype=torch.int32, device=z_TF.device)
    token_n, value_n = torch.empty_like(feature_n), z_TF.new_empty(entries)
    _compact_kernel[end_TC.shape](
        z_TF, b_enc_F, end_TC, feature_n, token_n, value_n, first, z_TF.shape[1], CHUNK=CHUNK, **FUSED
    )
    return feature_n, token_n, value_n


def _sparse(
    x_BD: Tensor,
    y_BE: Tensor,
    weights: Weights,
    gradients: Weights,
    task: Task,
    active: _Active,
    norm_F: Tensor,
    r_B: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `gpu_dense.dense`, from what is active alone."""
    (B, D), F = x_BD.shape, len(norm_F)
    start_B1, feature_N, token_N, f_N = active  # relu(z) is z
    if isinstance(task.phi, TanhRelu):
        f_N.tanh_()
    slope_F = norm_F * (task.coefficient(L1) / B)
    g_BD, dz_N, square_B = torch.empty_like(x_BD), torch.empty_like(f_N), x_BD.new_empty(B, dtype=torch.float64)
    block_d = triton.next_power_of_2(D)
    _decode_kernel[(B,)](
        y_BE,
        weights["W_dec"],
        weights["b_dec"],
        slope_F,
        r_B * (2 / B),
        start_B1,
        feature_N,
        f_N,
        g_BD,
        dz_N,
        square_B,
        D,
        BOUNDED=isinstance(task.phi, TanhRelu),
        BLOCK_N=_entries(GATHERED, block_d),
        BLOCK_D=block_d,
        num_warps=warps(block_d),
        **FUSED,
    )
    sorted_N, at_N = torch.sort(feature_N, stable=True)  # tokens stay in ascending order within a feature
    start_F1 = torch.searchsorted(sorted_N, torch.arange(F + 1, dtype=torch.int32, device=x_BD.device))
    active_F = start_F1.diff()
    order_F = active_F.argsort(descending=True)  # one that is always active starts at once, ends with the rest
    total_F = torch.empty_like(norm_F)
    _gradients_kernel[(F,)](
        x_BD,
        g_BD,
        weights["W_dec"],
        slope_F,
        norm_F,
        order_F,
        start_F1,
        at_N,
        token_N,
        f_N,
        dz_N,
        gradients["W_enc"],
        gradients["b_enc"],
        gradients["W_dec"],
        total_F,
        D,
        PULLED=task.weigh_by_norm and task.coefficient(L1) != 0,
        BLOCK_N=_entries(GATHERED // 2, block_d),
        BLOCK_D=block_d,
        num_warps=warps(block_d),
        **FUSED,
    )
    torch.sum(g_BD, 0, out=gradients["b_dec"])
    return square_B, total_F, active_F.to(norm_F.dtype)


def _rows_like(gradient: Tensor) -> Tensor:
    """The tensor itself if its rows lie one after the other, else a new one to be copied from."""
    return gradient if gradient.is_contiguous() else torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _entries(numbers: int, block_d: int) -> int:
    """Rows that a program gathers at once."""
    return max(1, min(16, numbers // block_d))


@contextmanager
def _without_tf32() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")  # torch 2.9 and later
    name, full = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, before)


@triton.jit
def _count_kernel(z_TF, b_F, count_TC, F, CHUNK: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = c * CHUNK + tl.arange(0, CHUNK)
    z = tl.load(z_TF + t * F + i, mask=i < F, other=0) + tl.load(b_F + i, mask=i < F, other=0)
    tl.store(count_TC + t * tl.num_programs(1) + c, tl.sum(((z > 0) | (z != z)).to(tl.int32), 0))


@triton.jit
def _compact_kernel(z_TF, b_F, end_TC, feature_n, token_n, value_n, first, F, CHUNK: tl.constexpr):
    t, c = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = t * tl.num_programs(1) + c
    end = tl.load(end_TC + at)
    start = tl.load(end_TC + at - 1, mask=at > 0, other=0)
    if end > start:
        i = c * CHUNK + tl.arange(0, CHUNK)
        z = tl.load(z_TF + t * F + i, mask=i < F, other=0) + tl.load(b_F + i, mask=i < F, other=0)
        active = (z > 0) | (z != z)
        n = start - 1 + tl.cumsum(active.to(tl.int32), 0)
        tl.store(feature_n + n, i, mask=active)
        tl.store(token_n + n, (first + t + tl.zeros_like(i)).to(tl.int32), mask=active)
        tl.store(value_n + n, z, mask=active)


@triton.jit
def _decode_kernel(
    x_BD,
    W_dec_FD,
    b_dec_D,
    slope_F,
    twice_B,
    start_B1,
    feature_N,
    f_N,
    g_BD,
    dz_N,
    square_B,
    D,
    BOUNDED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_B1 + t), tl.load(start_B1 + t + 1)
    e_D = tl.load(b_dec_D + d, mask=d < D, other=0) - tl.load(x_BD + t * D + d, mask=d < D, other=0)
    for n in tl.range(start, end, BLOCK_N, num_stages=1):  # more stages would go through shared memory
        here = n + k < end
        i = tl.load(feature_N + n + k, mask=here, other=0).to(tl.int64)
        f = tl.load(f_N + n + k, mask=here, other=0)
        W = tl.load(W_dec_FD + i[:, None] * D + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0)
        e_D += tl.sum(f[:, None] * W, 0)
    e_in_double_D = e_D.to(tl.float64)
    tl.store(square_B + t, tl.sum(e_in_double_D * e_in_double_D, 0))
    g_D = e_D * tl.load(twice_B + t)
    tl.store(g_BD + t * D + d, g_D, mask=d < D)
    for n in tl.range(start, end, BLOCK_N, num_stages=1):
        here = n + k < end
        i = tl.load(feature_N + n + k, mask=here, other=0).to(tl.int64)
        W = tl.load(W_dec_FD + i[:, None] * D + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0)
        dz = tl.sum(g_D[None, :] * W, 1) + tl.load(slope_F + i, mask=here, other=0)
        if BOUNDED:
            f = tl.load(f_N + n + k, mask=here, other=0)
            dz *= 1 - f * f
        tl.store(dz_N + n + k, dz, mask=here)


@triton.jit
def _gradients_kernel(
    x_BD,
    g_BD,
    W_dec_FD,
    slope_F,
    norm_F,
    order_F,
    start_F1,
    at_N,
    token_N,
    f_N,
    dz_N,
    dW_enc_FD,
    db_enc_F,
    dW_dec_FD,
    total_F,
    D,
    PULLED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i = tl.load(order_F + tl.program_id(0))
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_F1 + i), tl.load(start_F1 + i + 1)
    enc_D = tl.zeros((BLOCK_D,), x_BD.dtype.element_ty)
    dec_D = tl.zeros((BLOCK_D,), x_BD.dtype.element_ty)
    total_k = tl.zeros((BLOCK_N,), x_BD.dtype.element_ty)
    bias_k = tl.zeros((BLOCK_N,), x_BD.dtype.element_ty)
    for n in tl.range(start, end, BLOCK_N, num_stages=1):
        here = n + k < end
        at = tl.load(at_N + n + k, mask=here, other=0)
        t = tl.load(token_N + at, mask=here, other=0).to(tl.int64)
        f = tl.load(f_N + at, mask=here, other=0)
        dz = tl.load(dz_N + at, mask=here, other=0)
        total_k += f
        bias_k += dz
        row = t[:, None] * D + d[None, :]
        both = here[:, None] & (d < D)[None, :]
        dec_D += tl.sum(f[:, None] * tl.load(g_BD + row, mask=both, other=0), 0)
        enc_D += tl.sum(dz[:, None] * tl.load(x_BD + row, mask=both, other=0), 0)
    total, bias = tl.sum(total_k, 0), tl.sum(bias_k, 0)
    if PULLED:
        norm = tl.load(norm_F + i)
        if norm > 0:  # a row of norm 0 has no direction to be pulled in
            W_D = tl.load(W_dec_FD + i * D + d, mask=d < D, other=0)
            dec_D += total * (tl.load(slope_F + i) / norm) * (W_D / norm)
    tl.store(dW_dec_FD + i * D + d, dec_D, mask=d < D)
    tl.store(dW_enc_FD + i * D + d, enc_D, mask=d < D)
    tl.store(db_enc_F + i, bias)
    tl.store(total_F + i, total)
