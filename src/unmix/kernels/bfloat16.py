"""bfloat16 where Numba has none: its 16 bits as an unsigned integer, to float32 and back.

A bfloat16 is the upper half of the float32 of the same value, so widening is a shift and exact, for NaN too. Narrowing
rounds to the nearest, ties to even, as PyTorch does.
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from unmix.kernels.code_cache import numba

_HALF, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_NAN = 0x7FC0


def _widened(typing: Any, bits: Any) -> Any:
    """The float32 of a bfloat16's bits, uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.zext(arguments[0], _WORD)
        return builder.bitcast(builder.shl(word, ir.Constant(_WORD, 16)), _FLOAT)

    return types.float32(types.uint16), generate


def _narrowed(typing: Any, number: Any) -> Any:
    """The bits, uint16, of the bfloat16 nearest to a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def of(value: int) -> Any:
            return ir.Constant(_WORD, value)

        word = builder.bitcast(arguments[0], _WORD)
        odd = builder.and_(builder.lshr(word, of(16)), of(1))
        upper = builder.lshr(builder.add(builder.add(word, of(0x7FFF)), odd), of(16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])  # whose bits rounding could carry to 0
        return builder.trunc(builder.select(is_nan, of(_NAN), upper), _HALF)

    return types.uint16(types.float32), generate


widened: Any = intrinsic(_widened)
narrowed: Any = intrinsic(_narrowed)


def as_bits(x: Tensor) -> Any:
    """The numpy array of a bfloat16 tensor's bits, uint16; no copy."""
    return x.view(torch.uint16).numpy()


def rows_as_float32(x_RD: Tensor, order_B: Tensor) -> Tensor:
    """`x_RD[order_B].float()`, gathered and widened in one pass; of another dtype than bfloat16 it is PyTorch's.

    Raises `IndexError` if a row is asked for that is not there.
    """
    if x_RD.dtype != torch.bfloat16:
        return x_RD.index_select(0, order_B).float()
    if len(order_B):
        low, high = (int(end) for end in order_B.aminmax())
        if low < 0 or high >= len(x_RD):
            raise IndexError(f"rows {low} to {high} of a matrix of {len(x_RD)}")
    out_BD = torch.empty(len(order_B), x_RD.shape[1])
    _widened_rows(as_bits(x_RD), order_B.numpy(), out_BD.numpy())
    return out_BD


@numba.njit(parallel=True, cache=True)
def _widened_rows(bits_RD: Any, order_B: Any, out_BD: Any) -> None:
    for b in numba.prange(len(order_B)):
        row = order_B[b]
        for d in range(out_BD.shape[1]):
            out_BD[b, d] = widened(bits_RD[row, d])
