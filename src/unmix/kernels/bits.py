"""Which of 32 neighbouring numbers are active, as 32 bits of one word: a few vector comparisons.

Numba's loops do not compile to this, so the instructions are given as LLVM's own, which any processor has a form of.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 32
_INFINITY = {16: 0x7F80, 32: 0x7F800000, 64: 0x7FF0000000000000}  # bfloat16, float32, float64, as integers
_WORD = ir.IntType(64)


def _active_bits(typing: Any, bits_F: Any, first: Any) -> Any:
    """Bit i is set if number `first` + i of `bits_F` is above 0 or NaN. The numbers are given as integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        width = bits_F.dtype.bitwidth
        vector = ir.VectorType(ir.IntType(width), LANES)

        def all_lanes(value: int) -> Any:
            return ir.Constant(vector, [value] * LANES)

        array = context.make_array(bits_F)(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        numbers = builder.load(place, align=width // 8)
        positive = builder.icmp_signed(">", numbers, all_lanes(0))  # NaN without a sign too
        magnitude = builder.and_(numbers, all_lanes(2 ** (width - 1) - 1))
        nan = builder.icmp_signed(">", magnitude, all_lanes(_INFINITY[width]))
        return builder.zext(builder.bitcast(builder.or_(positive, nan), ir.IntType(LANES)), _WORD)

    return types.uint64(bits_F, types.intp), generate


def _above_bits(typing: Any, sums_F: Any, first: Any, slope_F: Any, least_F: Any, by: Any, plus: Any) -> Any:
    """Bit i is set unless `sums` <= `slope` · by + `least` + plus, all at `first` + i; so it is where any is NaN.

    `sums_F` is int32, the others are float32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, at, slope, least, times, more = arguments
        floats = ir.VectorType(ir.FloatType(), LANES)

        def load(kind: Any, array: Any, lanes: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            place = builder.bitcast(builder.gep(data, [at]), ir.VectorType(lanes, LANES).as_pointer())
            return builder.load(place, align=4)

        def spread(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(floats, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

        found = builder.sitofp(load(sums_F, sums, ir.IntType(32)), floats)
        line = builder.fmul(load(slope_F, slope, ir.FloatType()), spread(times))
        line = builder.fadd(line, builder.fadd(load(least_F, least, ir.FloatType()), spread(more)))
        above = builder.fcmp_unordered(">", found, line)
        return builder.zext(builder.bitcast(above, ir.IntType(LANES)), _WORD)

    return types.uint64(sums_F, types.intp, slope_F, least_F, types.float32, types.float32), generate


def _lowest_bit(typing: Any, word: Any) -> Any:
    """Place of the lowest bit that is set; `word` is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


active_bits: Any = intrinsic(_active_bits)
above_bits: Any = intrinsic(_above_bits)
lowest_bit: Any = intrinsic(_lowest_bit)
