"""Where z = x W_enc + b_enc is above a floor, and how much it is, from a product that may be coarse.

The floor is 0, or a number for each feature; what is compared with 0 below is z without it.

    fp32    the product is z
    bf16    x, W_enc and b_enc rounded to bf16. Where the product is positive, z is computed in fp32; a feature whose
            z lies within the rounding above the floor may be missed
    int8    x and W_enc in steps of 1/127 of the largest entry of each row; z is computed in fp32 wherever the product
            leaves it open that z is positive, so that next to nothing is missed

For int8, with μ the mean of x over the batch and c_d a scale for each of its D numbers, one has

    z_ti = y_t · v_i + b'_i,    y = (x - μ) / c,    v = c W_enc,    b' = b_enc + μ W_enc

The mean, in which most of the length of a language model's activations lies, is not rounded at all, and c_d, the root
of the deviation of x_d, keeps one wide dimension from coarsening all others. Let r_t and s_i be the steps of y_t and
v_i, and p_ti the product of the whole numbers. Rounding moves y_t · v_i by a sum of D errors, uniform within half a
step: its standard deviation is at most (||y_t|| s_i + ||v_i|| r_t) / √12. So z is computed where

    r_t s_i p_ti + b'_i  >  -SIGMAS (||y_t|| s_i + ||v_i|| r_t) / √12

which, divided by r_t s_i, is a comparison of p_ti with a line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unmix.kernels.bits import LANES, above_bits, active_bits, lowest_bit
from unmix.kernels.code_cache import numba
from unmix.kernels.noise import add_noise
from unmix.kernels.rows import SUMS, dot, moments
from unmix.kernels.task import Noise, Weights

Precision = Literal["fp32", "bf16", "int8"]
SIGMAS = 2.5  # of a bound that adds two deviations where their squares add: 2.5 to 3.5 of the true one


Product = Callable[[int, int, Any, Any, Any], None]
"""(first feature, how many, column_BT, z_BT, start_B1): writes the active columns of a tile, and their z, to the front
of each row. start_B1[0] is given; where the rows' entries end is put behind it."""


def fp32(
    x_BD: Tensor,
    weights: Weights,
    workspace: Any,
    floor_F: Tensor | None = None,
    noise: Noise | None = None,
    both_signs: bool = False,
) -> Product:
    """The product is z, and the noise is added to it. `both_signs`: |z| is compared with the floor."""
    W_FD, b_F = weights["W_enc"].T, weights["b_enc"]

    def find(first: int, count: int, column_BT: Any, z_BT: Any, start_B1: Any) -> None:
        product_BT = _tile(workspace, x_BD, count, x_BD.dtype)
        torch.addmm(b_F[first : first + count], x_BD, W_FD[first : first + count].T, out=product_BT)
        if noise:
            add_noise(product_BT.numpy(), noise, 0, first)
        if floor_F is None:
            _positive(_as_integers(product_BT), product_BT.numpy(), column_BT, z_BT, start_B1)
        else:
            floor_T = floor_F[first : first + count].numpy()
            _above_floor(product_BT.numpy(), floor_T, both_signs, column_BT, z_BT, start_B1)

    return find


def bf16(x_BD: Tensor, weights: Weights, workspace: Any, floor_F: Tensor | None = None) -> Product:
    """A product in bf16, and z of what it finds."""
    W_FD, b_F = weights["W_enc"].T, weights["b_enc"]
    F, D = W_FD.shape
    least_F = torch.zeros_like(b_F) if floor_F is None else floor_F
    low_FD = workspace.tensor("W", F * D, torch.bfloat16).view(F, D).copy_(W_FD)
    low_BD, low_F = x_BD.bfloat16(), (b_F - least_F).bfloat16()

    def find(first: int, count: int, column_BT: Any, z_BT: Any, start_B1: Any) -> None:
        tile = slice(first, first + count)
        product_BT = _tile(workspace, x_BD, count, torch.bfloat16)
        torch.addmm(low_F[tile], low_BD, low_FD[tile].T, out=product_BT)
        exact = x_BD.numpy(), W_FD[tile].numpy(), b_F[tile].numpy(), least_F[tile].numpy()
        _nearly(_as_integers(product_BT), *exact, column_BT, z_BT, start_B1)

    return find


def int8(x_BD: Tensor, weights: Weights, workspace: Any, floor_F: Tensor | None = None) -> Product:
    """A product of whole numbers, and z of what it leaves open."""
    W_FD, b_F = weights["W_enc"].T, weights["b_enc"]
    floor_F = torch.zeros_like(b_F) if floor_F is None else floor_F
    (B, D), F = x_BD.shape, len(b_F)
    square_D, sum_D = moments(x_BD)
    scale_D = (square_D / B - (sum_D / B).square()).clamp(min=0) ** 0.25
    scale_D = torch.maximum(scale_D, 1e-3 * scale_D.mean() + 1e-30).to(x_BD.dtype)  # not 0 where x_d is constant
    mean_D = (sum_D / B).to(x_BD.dtype)
    whole_BD = workspace.tensor("x in int8", B * D, torch.int8).view(B, D)
    whole_FD = workspace.tensor("W in int8", F * D, torch.int8).view(F, D)
    r_B, length_B = _whole(x_BD.numpy(), mean_D.numpy(), (1 / scale_D).numpy(), whole_BD.numpy())
    s_F, length_F = _whole(W_FD.numpy(), np.zeros(D, x_BD.numpy().dtype), scale_D.numpy(), whole_FD.numpy())
    margin = SIGMAS / 12**0.5
    b_shifted_F = torch.addmv(b_F - floor_F, W_FD, mean_D).numpy()
    slope_F, least_F = _float32(-b_shifted_F / s_F, F + LANES), _float32(-margin * length_F / s_F, F + LANES)
    by_B, plus_B = _float32(1 / r_B, B), _float32(-margin * length_B / r_B, B)

    def find(first: int, count: int, column_BT: Any, z_BT: Any, start_B1: Any) -> None:
        tile = slice(first, first + count)
        product_BT = _tile(workspace, x_BD, count, torch.int32)
        torch._int_mm(whole_BD, whole_FD[tile].T, out=product_BT)
        exact = x_BD.numpy(), W_FD[tile].numpy(), b_F[tile].numpy(), floor_F[tile].numpy()
        line = slope_F[first:], least_F[first:], by_B, plus_B
        _above(product_BT.numpy(), *line, *exact, column_BT, z_BT, start_B1)

    return find


COARSE: dict[Precision, Callable[[Tensor, Weights, Any, Tensor | None], Product]] = {"bf16": bf16, "int8": int8}


def _tile(workspace: Any, x_BD: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """A (B, count) array, behind which `LANES` numbers more may be read."""
    B = len(x_BD)
    made: Tensor = workspace.tensor(f"tile of {dtype}", B * count + LANES, dtype)[: B * count].view(B, count)
    return made


def _as_integers(z_BT: Tensor) -> Any:
    return z_BT.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[z_BT.element_size()]).numpy()


def _float32(numbers: Any, length: int) -> Any:
    padded = np.zeros(length, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity leaves everything open, which is right
        padded[: len(numbers)] = numbers
    return padded


def _whole(x_ND: Any, shift_D: Any, scale_D: Any, whole_ND: Any) -> tuple[Any, Any]:
    """(x - shift) · scale in whole steps, at most 127 of them; answers each row's step and its length ||·||₂."""
    step_N, length_N = np.empty(len(x_ND), x_ND.dtype), np.empty(len(x_ND), x_ND.dtype)
    _round(x_ND, shift_D, scale_D, whole_ND, step_N, length_N)
    return step_N, length_N


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _round(x_ND: Any, shift_D: Any, scale_D: Any, whole_ND: Any, step_N: Any, length_N: Any) -> None:
    N, D = x_ND.shape
    for n in numba.prange(N):
        x_D, whole_D = x_ND[n], whole_ND[n]
        square = most = x_D.dtype.type(0)
        for d in range(D):
            y = (x_D[d] - shift_D[d]) * scale_D[d]
            square += y * y
            most = max(most, abs(y))
        length_N[n] = np.sqrt(square)
        step_N[n] = most / 127 if most > 0 else x_D.dtype.type(1)
        inverse = 1 / step_N[n]
        for d in range(D):
            whole_D[d] = np.int8(np.rint((x_D[d] - shift_D[d]) * scale_D[d] * inverse))


@numba.njit(cache=True, inline="always")
def _within(word: Any, first: int, count: int) -> Any:
    """The word without the bits that lie behind the row's end."""
    return word if first + LANES <= count else word & ((np.uint64(1) << np.uint64(count - first)) - np.uint64(1))


@numba.njit(cache=True)
def _cumulate(start_B1: Any) -> None:
    for t in range(len(start_B1) - 1):
        start_B1[t + 1] += start_B1[t]


@numba.njit(cache=True, fastmath=SUMS, inline="always")
def _compute(
    word: Any, first: int, n: int, x_D: Any, W_TD: Any, b_T: Any, floor_T: Any, column_T: Any, z_T: Any
) -> int:
    """z of the features whose bits are set; those above their floor are put at n and behind. Answers their end."""
    while word:
        i = first + lowest_bit(word)
        z = b_T[i] + dot(x_D, W_TD[i])
        if not (z <= floor_T[i]):
            column_T[n], z_T[n] = i, z
            n += 1
        word &= word - np.uint64(1)
    return n


@numba.njit(parallel=True, cache=True)
def _positive(bits_BT: Any, product_BT: Any, column_BT: Any, z_BT: Any, start_B1: Any) -> None:
    B, T = product_BT.shape
    for t in numba.prange(B):
        n = 0
        for first in range(0, T, LANES):
            word = _within(active_bits(bits_BT[t], first), first, T)
            while word:
                i = first + lowest_bit(word)
                column_BT[t, n], z_BT[t, n] = i, product_BT[t, i]
                n += 1
                word &= word - np.uint64(1)
        start_B1[t + 1] = n
    _cumulate(start_B1)


@numba.njit(parallel=True, cache=True)
def _above_floor(product_BT: Any, floor_T: Any, both_signs: bool, column_BT: Any, z_BT: Any, start_B1: Any) -> None:
    B, T = product_BT.shape
    for t in numba.prange(B):
        n = 0
        for i in range(T):
            z = product_BT[t, i]
            column_BT[t, n], z_BT[t, n] = i, z  # the next one lies over it unless it counts
            n += not ((abs(z) if both_signs else z) <= floor_T[i])
        start_B1[t + 1] = n
    _cumulate(start_B1)


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _nearly(
    bits_BT: Any, x_BD: Any, W_TD: Any, b_T: Any, floor_T: Any, column_BT: Any, z_BT: Any, start_B1: Any
) -> None:
    B, T = bits_BT.shape
    for t in numba.prange(B):
        n = 0
        for first in range(0, T, LANES):
            word = _within(active_bits(bits_BT[t], first), first, T)
            n = _compute(word, first, n, x_BD[t], W_TD, b_T, floor_T, column_BT[t], z_BT[t])
        start_B1[t + 1] = n
    _cumulate(start_B1)


@numba.njit(parallel=True, cache=True, fastmath=SUMS)
def _above(
    product_BT: Any,
    slope_T: Any,
    least_T: Any,
    by_B: Any,
    plus_B: Any,
    x_BD: Any,
    W_TD: Any,
    b_T: Any,
    floor_T: Any,
    column_BT: Any,
    z_BT: Any,
    start_B1: Any,
) -> None:
    B, T = product_BT.shape
    for t in numba.prange(B):
        n = 0
        for first in range(0, T, LANES):
            word = _within(above_bits(product_BT[t], first, slope_T, least_T, by_B[t], plus_B[t]), first, T)
            n = _compute(word, first, n, x_BD[t], W_TD, b_T, floor_T, column_BT[t], z_BT[t])
        start_B1[t + 1] = n
    _cumulate(start_B1)
