"""The same step as `reference` on a GPU: the encoder's product by cuBLAS, and after it only what is active (Triton).

    1  z = x W_enc, a tile of tokens at a time; its active entries (z + b_enc > 0) become sparse rows (CSR)
    2  per token:    x̂ from the decoder rows of its active features, g = (2/B)(x̂ - x) / ||x||^k, and for each of
                     them dz_i = (g · W_dec_i + (l1/B) w_i) phi'_i
    3  per feature:  the tokens on which it was active (CSC: a stable sort by feature) give dW_dec_i = Σ f g and
                     dW_enc_i = Σ dz x, its part of the penalty, and the part along W_dec_i taken out

Where more than `DENSE_ABOVE` of the first tile is active, five products in plain torch do less. No number is added up
by several programs at once: the same inputs give the same bits. The host waits for the device twice in a step, to size
the sparse rows (once per tile, and a tile is mostly the whole batch) and to read the sums. NaN counts as active, so
that it is seen and not dropped.

Needs torch and triton alone. All sums are in the precision of the weights (squares in float64), never in TF32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (triton reads the annotations of a kernel and takes none but its own)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unmix.kernels.reference import Adam, Noise, Objective, Sums, Weights, token_weights

TILE_BYTES = 2 * 2**30  # of z, one (tile, F) array; the dense step has two
# where 4 products of 2·BDF operations at 50 TFLOP/s cost what 4 gathers of 4·D bytes an entry do at 3 TB/s
DENSE_ABOVE = 0.03  # of (B, F)
CHUNK = 2048  # of a token's features, looked through by one program
GATHERED = 8192  # numbers that a program asks for at once: rows times D, in powers of 2
PER_WARP = 256  # of the D numbers of a row
STAGES = 1  # rounds of gathered rows under way at once: more than 1 goes through shared memory
BUSIEST_FIRST = (
    True  # features in the order of their tokens: one that is always active starts at once, ends with the rest
)
_FUSED: Any = {"enable_fp_fusion": True}  # a·b + c in one rounding, whatever triton's default


class Workspace:
    """The (tile, F) array of one shape, made once."""

    def __init__(self, features: int, like: Tensor) -> None:
        self.tile = max(1, TILE_BYTES // (like.element_size() * features))
        self.z = like.new_empty(0, features)

    def rows(self, tokens: int) -> Tensor:
        """Room for z of so many tokens, at most a tile; what is in it is left from before."""
        if len(self.z) < tokens:
            self.z = self.z.new_empty(min(tokens, self.tile), self.z.shape[1])
        return self.z[:tokens]


def step(x_BD: Tensor, weights: Weights, gradients: Weights, objective: Objective, workspace: Workspace) -> Sums:
    """As `reference.step`; agrees with it up to rounding."""
    x_BD = x_BD.contiguous()
    W_enc_FD, W_dec_FD = weights.W_enc_DF.T.contiguous(), weights.W_dec_FD.contiguous()
    weights = Weights(W_enc_FD.T, weights.b_enc_F.contiguous(), W_dec_FD, weights.b_dec_D.contiguous())
    out = Weights(_rows_like(gradients.W_enc_DF.T).T, *map(_rows_like, gradients[1:]))
    norm_F = W_dec_FD.norm(dim=1) if objective.weigh_by_norm else torch.ones_like(weights.b_enc_F)
    r_B = token_weights(x_BD, objective.norm_power)
    with _device_of(x_BD), _without_tf32():
        square_B, total_F, active_F, gradient_square = _sparse(x_BD, weights, out, objective, workspace, norm_F, r_B)
    for mine, theirs in zip(out, gradients, strict=True):
        if mine.data_ptr() != theirs.data_ptr():
            theirs.copy_(mine)
    sums = [square_B.sum(), (square_B * r_B).sum(), (total_F * norm_F).sum(dtype=torch.float64), gradient_square]
    squared_error, reconstruction, penalty, gradient = torch.stack(sums).tolist()
    return Sums(squared_error, reconstruction, penalty, active_F, gradient)


_Run = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of a batch: squared error of each token, Σ_B f and active tokens of each feature, Σ g² over the four gradients."""


def _sparse(
    x_BD: Tensor,
    weights: Weights,
    gradients: Weights,
    objective: Objective,
    workspace: Workspace,
    norm_F: Tensor,
    r_B: Tensor,
) -> _Run:
    (B, D), F = x_BD.shape, len(norm_F)
    starts, features, tokens, values, entries = [norm_F.new_zeros(1, dtype=torch.int64)], [], [], [], 0
    for first in range(0, B, workspace.tile):
        z_TF = _encode(x_BD, weights, objective.noise, workspace, first)
        end_TC = _ends(z_TF, weights.b_enc_F)
        here = int(end_TC[-1, -1].item())  # the host waits
        if first == 0 and here > DENSE_ABOVE * z_TF.numel():
            return _dense(x_BD, weights, gradients, objective, workspace, norm_F, r_B)
        feature_n, token_n, value_n = _compact(z_TF, weights.b_enc_F, end_TC, here, first)
        starts.append(end_TC[:, -1] + entries)
        features.append(feature_n)
        tokens.append(token_n)
        values.append(value_n)
        entries += here
    start_B1, feature_N, token_N, f_N = map(_joined, (starts, features, tokens, values))
    if objective.phi == "tanh_relu":
        f_N.tanh_()
    slope_F = norm_F * (objective.l1 / B)
    g_BD, dz_N, square_B = torch.empty_like(x_BD), torch.empty_like(f_N), x_BD.new_empty(B, dtype=torch.float64)
    block_d = triton.next_power_of_2(D)
    _decode_kernel[(B,)](
        x_BD,
        weights.W_dec_FD,
        weights.b_dec_D,
        slope_F,
        r_B * (2 / B),
        start_B1,
        feature_N,
        f_N,
        g_BD,
        dz_N,
        square_B,
        D,
        BOUNDED=objective.phi == "tanh_relu",
        BLOCK_N=_entries(GATHERED, block_d),
        BLOCK_D=block_d,
        STAGES=STAGES,
        num_warps=_warps(block_d),
        **_FUSED,
    )
    sorted_N, at_N = torch.sort(feature_N, stable=True)  # tokens stay in ascending order within a feature
    start_F1 = torch.searchsorted(sorted_N, torch.arange(F + 1, dtype=torch.int32, device=x_BD.device))
    active_F = start_F1.diff()
    order_F = active_F.argsort(descending=True) if BUSIEST_FIRST else torch.arange(F, device=x_BD.device)
    total_F, square_F = torch.empty_like(norm_F), norm_F.new_empty(F, dtype=torch.float64)
    _gradients_kernel[(F,)](
        x_BD,
        g_BD,
        weights.W_dec_FD,
        slope_F,
        norm_F,
        order_F,
        start_F1,
        at_N,
        token_N,
        f_N,
        dz_N,
        gradients.W_enc_DF,
        gradients.b_enc_F,
        gradients.W_dec_FD,
        total_F,
        square_F,
        D,
        PULLED=objective.weigh_by_norm and objective.l1 != 0,
        UNIT_NORM=objective.unit_norm,
        BLOCK_N=_entries(GATHERED // 2, block_d),
        BLOCK_D=block_d,
        STAGES=STAGES,
        num_warps=_warps(block_d),
        **_FUSED,
    )
    torch.sum(g_BD, 0, out=gradients.b_dec_D)
    gradient_square = square_F.sum() + gradients.b_dec_D.double().square().sum()
    return square_B, total_F, active_F.to(norm_F.dtype), gradient_square


def _dense(
    x_BD: Tensor,
    weights: Weights,
    gradients: Weights,
    objective: Objective,
    workspace: Workspace,
    norm_F: Tensor,
    r_B: Tensor,
) -> _Run:
    """The five products by hand, as in `dense`, for when much is active; z is in place if the batch is one tile."""
    per_token = objective.l1 / len(x_BD)
    bounded = objective.phi == "tanh_relu"
    active_F, total_F, squares = torch.zeros_like(norm_F), torch.zeros_like(norm_F), []
    for gradient in gradients:
        gradient.zero_()
    for first in range(0, len(x_BD), workspace.tile):
        x_TD, r_T = x_BD[first : first + workspace.tile], r_B[first : first + workspace.tile]
        whole = len(x_TD) == len(x_BD)  # z is in place
        f_TF = workspace.rows(len(x_BD)) if whole else _encode(x_BD, weights, objective.noise, workspace, first)
        f_TF.add_(weights.b_enc_F).relu_()
        active_F += (f_TF != 0).sum(0)  # NaN too
        if bounded:
            f_TF.tanh_()
        total_F += f_TF.sum(0)
        error_TD = torch.mm(f_TF, weights.W_dec_FD).add_(weights.b_dec_D).sub_(x_TD)
        squares.append(error_TD.double().square().sum(1))
        g_TD = error_TD.mul_((r_T * (2 / len(x_BD)))[:, None])
        gradients.W_dec_FD.addmm_(f_TF.T, g_TD)
        gradients.b_dec_D.add_(g_TD.sum(0))
        dz_TF = torch.mm(g_TD, weights.W_dec_FD.T).add_(norm_F * per_token)
        torch.ops.aten.threshold_backward.grad_input(dz_TF, f_TF, 0, grad_input=dz_TF)
        if bounded:
            dz_TF.addcmul_(dz_TF, f_TF.square_(), value=-1)
        gradients.W_enc_DF.T.addmm_(dz_TF.T, x_TD)
        gradients.b_enc_F.add_(dz_TF.sum(0))
    if objective.weigh_by_norm and objective.l1:
        per_row_F = torch.where(norm_F > 0, total_F * per_token / norm_F, 0)
        gradients.W_dec_FD.addcmul_(weights.W_dec_FD, per_row_F[:, None])
    if objective.unit_norm:
        along_F1 = (gradients.W_dec_FD * weights.W_dec_FD).sum(1, keepdim=True)
        gradients.W_dec_FD.addcmul_(weights.W_dec_FD, along_F1, value=-1)
    gradient_square = torch.stack([_square(gradient) for gradient in gradients]).sum()
    return _joined(squares), total_F, active_F, gradient_square


def _square(gradient: Tensor) -> Tensor:
    """Σ g² in float64, a stretch at a time: no copy of the whole in float64."""
    flat = (gradient if gradient.is_contiguous() else gradient.T).view(-1)
    return torch.stack([part.double().square().sum() for part in torch.split(flat, 2**24)]).sum()


def _encode(x_BD: Tensor, weights: Weights, noise: Noise | None, workspace: Workspace, first: int) -> Tensor:
    """x W_enc (+ ε) of the tile that starts at token `first`, in the workspace; the bias is left to its readers."""
    x_TD = x_BD[first : first + workspace.tile]
    z_TF = torch.mm(x_TD, weights.W_enc_DF, out=workspace.rows(len(x_TD)))
    if noise:
        add_noise(z_TF, noise, first)
    return z_TF


def _ends(z_TF: Tensor, b_enc_F: Tensor) -> Tensor:
    """Where in the sparse rows the entries of each chunk of each token end, (T, C)."""
    T, F = z_TF.shape
    count_TC = torch.empty(T, triton.cdiv(F, CHUNK), dtype=torch.int32, device=z_TF.device)
    _count_kernel[count_TC.shape](z_TF, b_enc_F, count_TC, F, CHUNK=CHUNK, **_FUSED)
    return count_TC.view(-1).cumsum(0, dtype=torch.int64).view_as(count_TC)


def _compact(z_TF: Tensor, b_enc_F: Tensor, end_TC: Tensor, entries: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Feature, token and value of each active entry, in the order of (token, feature)."""
    feature_n = torch.empty(entries, dtype=torch.int32, device=z_TF.device)
    token_n, value_n = torch.empty_like(feature_n), z_TF.new_empty(entries)
    _compact_kernel[end_TC.shape](
        z_TF, b_enc_F, end_TC, feature_n, token_n, value_n, first, z_TF.shape[1], CHUNK=CHUNK, **_FUSED
    )
    return feature_n, token_n, value_n


def add_noise(z_TF: Tensor, noise: Noise, first_token: int) -> None:
    """z += ε in place, as `noise.add_noise` does; equal to it up to rounding in float32. z lies in one piece."""
    T, F = z_TF.shape
    key = noise.key - 2**64 if noise.key >= 2**63 else noise.key
    key_1 = torch.full((1,), key, device=z_TF.device)  # made there: a copy would wait for the device
    _noise_kernel[(T, triton.cdiv(F, 1024))](z_TF, key_1, noise.sigma, first_token, F, PAIRS=512, **_FUSED)


def adam(weights: Weights, gradients: Weights, first: Weights, second: Weights, how: Adam) -> None:
    """As `reference.adam`; each number is read once and written once."""
    b1, b2 = how.betas
    for name, *kept in zip(Weights._fields, weights, gradients, first, second, strict=True):
        rows = [t.T if name == "W_enc_DF" else t for t in kept]
        W, g, m, v = (t.contiguous() for t in rows)
        unit_norm = how.unit_norm and name == "W_dec_FD"
        D = W.shape[-1] if unit_norm else 1024
        block_d = triton.next_power_of_2(D)
        with _device_of(W):
            _adam_kernel[(triton.cdiv(W.numel(), D),)](
                W,
                g,
                m,
                v,
                how.shrink,
                b1,
                1 - b1,
                b2,
                1 - b2,
                how.lr / (1 - b1**how.number),
                1 / (1 - b2**how.number),
                how.eps,
                W.numel(),
                D,
                UNIT_NORM=unit_norm,
                BLOCK_D=block_d,
                num_warps=_warps(block_d),
                **_FUSED,
            )
        for new, old in zip((W, m, v), (rows[0], rows[2], rows[3]), strict=True):
            if new.data_ptr() != old.data_ptr():
                old.copy_(new)


def _rows_like(gradient: Tensor) -> Tensor:
    """The tensor itself if its rows lie one after the other, else a new one to be copied from."""
    return gradient if gradient.is_contiguous() else torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _entries(numbers: int, block_d: int) -> int:
    """Rows that a program gathers at once."""
    return max(1, min(16, numbers // block_d))


def _warps(block_d: int) -> int:
    return max(1, min(16, block_d // PER_WARP))


def _device_of(t: Tensor) -> Any:
    """Kernels start on the current device, which need not be where the tensor is."""
    cuda: Any = torch.cuda
    return cuda.device_of(t)


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
    STAGES: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_B1 + t), tl.load(start_B1 + t + 1)
    e_D = tl.load(b_dec_D + d, mask=d < D, other=0) - tl.load(x_BD + t * D + d, mask=d < D, other=0)
    for n in tl.range(start, end, BLOCK_N, num_stages=STAGES):
        here = n + k < end
        i = tl.load(feature_N + n + k, mask=here, other=0).to(tl.int64)
        f = tl.load(f_N + n + k, mask=here, other=0)
        W = tl.load(W_dec_FD + i[:, None] * D + d[None, :], mask=here[:, None] & (d < D)[None, :], other=0)
        e_D += tl.sum(f[:, None] * W, 0)
    e_in_double_D = e_D.to(tl.float64)
    tl.store(square_B + t, tl.sum(e_in_double_D * e_in_double_D, 0))
    g_D = e_D * tl.load(twice_B + t)
    tl.store(g_BD + t * D + d, g_D, mask=d < D)
    for n in tl.range(start, end, BLOCK_N, num_stages=STAGES):
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
    square_F,
    D,
    PULLED: tl.constexpr,
    UNIT_NORM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    i = tl.load(order_F + tl.program_id(0))
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    start, end = tl.load(start_F1 + i), tl.load(start_F1 + i + 1)
    enc_D = tl.zeros((BLOCK_D,), x_BD.dtype.element_ty)
    dec_D = tl.zeros((BLOCK_D,), x_BD.dtype.element_ty)
    total_k = tl.zeros((BLOCK_N,), x_BD.dtype.element_ty)
    bias_k = tl.zeros((BLOCK_N,), x_BD.dtype.element_ty)
    for n in tl.range(start, end, BLOCK_N, num_stages=STAGES):
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
    if PULLED or UNIT_NORM:
        W_D = tl.load(W_dec_FD + i * D + d, mask=d < D, other=0)
        if PULLED:
            norm = tl.load(norm_F + i)
            if norm > 0:  # a row of norm 0 has no direction to be pulled in
                dec_D += total * (tl.load(slope_F + i) / norm) * (W_D / norm)
        if UNIT_NORM:
            dec_D -= tl.sum(dec_D * W_D, 0) * W_D
    tl.store(dW_dec_FD + i * D + d, dec_D, mask=d < D)
    tl.store(dW_enc_FD + i * D + d, enc_D, mask=d < D)
    tl.store(db_enc_F + i, bias)
    tl.store(total_F + i, total)
    dec_in_double_D, enc_in_double_D, bias_in_double = dec_D.to(tl.float64), enc_D.to(tl.float64), bias.to(tl.float64)
    square = tl.sum(dec_in_double_D * dec_in_double_D + enc_in_double_D * enc_in_double_D, 0)
    tl.store(square_F + i, square + bias_in_double * bias_in_double)


@triton.jit
def _adam_kernel(
    W_FD,
    g_FD,
    m_FD,
    v_FD,
    shrink,
    b1,
    rest1,
    b2,
    rest2,
    rate,
    correction,
    eps,
    numbers,
    D,
    UNIT_NORM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d = tl.arange(0, BLOCK_D)
    at = tl.program_id(0).to(tl.int64) * D + d
    here = (d < D) & (at < numbers)
    W = tl.load(W_FD + at, mask=here, other=0)
    g = tl.load(g_FD + at, mask=here, other=0) * shrink
    m = b1 * tl.load(m_FD + at, mask=here, other=0) + rest1 * g
    v = b2 * tl.load(v_FD + at, mask=here, other=0) + rest2 * (g * g)
    W -= rate * m / (tl.sqrt(v * correction) + eps)
    if UNIT_NORM:
        W /= tl.sqrt(tl.sum(tl.where(here, W * W, 0), 0))
    tl.store(W_FD + at, W, mask=here)
    tl.store(m_FD + at, m, mask=here)
    tl.store(v_FD + at, v, mask=here)


@triton.jit
def _mix(x):
    x += 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _noise_kernel(z_TF, key_1, sigma, first_token, F, PAIRS: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    key = tl.load(key_1).to(tl.uint64, bitcast=True)
    bits = _mix(_mix(key ^ _mix((first_token + t).to(tl.uint64))) + j.to(tl.uint64))
    high, low = (bits >> 32).to(tl.uint32), bits.to(tl.uint32)
    # -log(u), u = (high + 1/2) / 2**32: through 1 - u where u is near 1, which has no room for its distance in float32
    u = (high.to(tl.float32) + 0.5) * (1 / 4294967296)
    rest = ((high ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (1 / 4294967296)
    near = 1 - rest
    near_log = tl.where(near == 1, rest, -tl.log(near) * (rest / tl.where(near == 1, 1.0, 1 - near)))
    radius = sigma * tl.sqrt(2 * tl.where(rest < 0.5, near_log, -tl.log(u)))
    angle = (low.to(tl.float32) + 0.5) * (6.283185307179586 / 4294967296)
    at = z_TF + t * F + 2 * j
    even, odd = 2 * j < F, 2 * j + 1 < F
    tl.store(at, tl.load(at, mask=even, other=0) + radius * tl.cos(angle), mask=even)
    tl.store(at + 1, tl.load(at + 1, mask=odd, other=0) + radius * tl.sin(angle), mask=odd)
