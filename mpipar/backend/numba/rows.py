"""What several kernels do to one row of numbers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from mpipar.backend.numba.arithmetic import compiled, exp

LANES = 64  # numbers that a loop takes at once, at most


@intrinsic
def _ordered(context: Any, x: Any) -> Any:
    """A number as an integer: the larger of two has the larger one."""
    word = {types.float32: types.int32, types.float64: types.int64}[x]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _flipped(builder, builder.bitcast(arguments[0], context.get_value_type(word)))

    return word(x), generate


@intrinsic
def _number(context: Any, x: Any) -> Any:
    """What `_ordered` was made of."""
    real = {types.int32: types.float32, types.int64: types.float64}[x]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(_flipped(builder, arguments[0]), context.get_value_type(real))

    return real(x), generate


@intrinsic
def _larger(context: Any, x: Any, y: Any) -> Any:
    """Of two integers, in their own width: Numba would widen them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = arguments
        return builder.select(builder.icmp_signed(">", x, y), x, y)

    return x(x, x), generate


def _flipped(builder: Any, bits: Any) -> Any:
    """All bits but the sign turned over where it is set: negative numbers then come in order, too."""
    sign = builder.ashr(bits, ir.Constant(bits.type, bits.type.width - 1))
    return builder.xor(bits, builder.lshr(sign, ir.Constant(bits.type, 1)))


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """An address as what `carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@compiled()
def together(row):  # type: ignore[no-untyped-def]
    """A row whose numbers lie side by side, of an array of which the compiler does not know that they do."""
    return carray(_pointer(row.ctypes.data), row.size, row.dtype)


@compiled()
def largest(row, lowest):  # type: ignore[no-untyped-def]
    """Of a row. By integers: of a maximum of numbers, which may meet NaN, the compiler makes no lanes."""
    top = _ordered(lowest)
    for j in range(row.size):
        top = _larger(top, _ordered(row[j]))
    return _number(top)


@compiled()
def powers(row, top, zero):  # type: ignore[no-untyped-def]
    """exp(row - top) in place, and the sum."""
    total = zero
    for j in range(row.size):
        e = exp(row[j] - top)
        row[j] = e
        total += e
    return total


@compiled()
def powers_and_next(row, other, top, lowest, zero):  # type: ignore[no-untyped-def]
    """`powers` of a row, and the largest of another, which is fetched from memory meanwhile."""
    total, found = zero, _ordered(lowest)
    for j in range(row.size):
        e = exp(row[j] - top)
        row[j] = e
        total += e
        found = _larger(found, _ordered(other[j]))
    return total, _number(found)


@compiled()
def whole_lanes(length):  # type: ignore[no-untyped-def]
    """The length, rounded up to whole lanes."""
    return (length + LANES - 1) // LANES * LANES


@compiled()
def cover(row, length, value):  # type: ignore[no-untyped-def]
    """`value` from `length` on, in those lanes that it ends in."""
    start = length // LANES * LANES
    if start < row.size:
        last, kept = row[start : start + LANES], length - start
        for j in range(LANES):
            x = last[j]
            last[j] = x if j < kept else value


@compiled()
def fill(row, value):  # type: ignore[no-untyped-def]
    for j in range(row.size):
        row[j] = value
