"""exp for compiled loops, as arithmetic that the compiler turns into vector instructions.

Numba calls the C library's exp for one number after the other. This one is a polynomial after the reduction
x = k·ln 2 + r, |r| ≤ ½ ln 2 (Cody & Waite 1980): within 3 units in the last place of float32, and 4e-15 relative in
float64. Arguments are clipped to where the result is a normal number; NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

# sums may be made in lanes and products fused; NaN and infinity keep their meaning
FREE = {"contract", "reassoc", "nsz", "arcp"}
compiled = partial(njit, nogil=True, cache=True, error_model="numpy", fastmath=FREE)

F = np.float32
LOG2E, LIMIT = 1.4426950408889634, 708.0
HIGH, LOW = 0.693145751953125, 1.42860682030941723212e-6  # ln 2 in two parts: k·HIGH is exact
LOG2E_32, LIMIT_32, HIGH_32, LOW_32 = F(LOG2E), F(87), F(0.693359375), F(-2.12194440e-4)
ONE_32 = F(1)
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1 / factorial(n) for n in range(2, 14))
M2, M3, M4, M5, M6, M7 = (  # the polynomial of least error in float32, from Cephes' expf
    F(5.0000001201e-1), F(1.6666665459e-1), F(4.1665795894e-2), F(8.3334519073e-3), F(1.3981999507e-3),
    F(1.9875691500e-4),
)  # fmt: skip


def _steps(integer: Any, real: Any, mantissa: int, bias: int) -> tuple[Any, Any, Any, Any]:
    """What exp does to the bits of a number, whose fraction has `mantissa` of them.

    Added to `large`, a number is rounded to a whole k: the sum's last bits are k + bias, as an exponent is written.
    """
    large = np.dtype(real.name).type(3 * 2 ** (mantissa - 1) + bias)
    at_zero = int(large.view(integer.name))  # the sum's bits where k is 0

    def word(value: int) -> Any:
        return ir.Constant(ir.IntType(integer.bitwidth), value)

    @intrinsic
    def bits(context: Any, total: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(integer))

        return integer(real), generate

    @intrinsic
    def number(context: Any, bits: Any) -> Any:
        """k"""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.sitofp(builder.sub(arguments[0], word(at_zero)), context.get_value_type(real))

        return real(integer), generate

    @intrinsic
    def power(context: Any, bits: Any) -> Any:
        """2^k"""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(builder.shl(arguments[0], word(mantissa)), context.get_value_type(real))

        return real(integer), generate

    return large, bits, number, power


LARGE_32, _bits32, _number32, _power32 = _steps(types.int32, types.float32, 23, 127)
LARGE, _bits64, _number64, _power64 = _steps(types.int64, types.float64, 52, 1023)


def exp(x: Any) -> Any:
    """e^x; in compiled code the polynomial of its type."""
    return np.exp(x)


@overload(exp, inline="always", jit_options={"fastmath": FREE, "error_model": "numpy"})
def _exp_of(x: Any) -> Callable[[Any], Any] | None:
    def exp32(x: Any) -> Any:
        x = min(max(x, -LIMIT_32), LIMIT_32)
        bits = _bits32(x * LOG2E_32 + LARGE_32)
        k = _number32(bits)
        r = x - k * HIGH_32 - k * LOW_32
        y = ((((M7 * r + M6) * r + M5) * r + M4) * r + M3) * r + M2
        return ((y * r + ONE_32) * r + ONE_32) * _power32(bits)

    def exp64(x: Any) -> Any:
        x = min(max(x, -LIMIT), LIMIT)
        bits = _bits64(x * LOG2E + LARGE)
        k = _number64(bits)
        r = x - k * HIGH - k * LOW
        y = (((((C13 * r + C12) * r + C11) * r + C10) * r + C9) * r + C8) * r + C7
        y = ((((y * r + C6) * r + C5) * r + C4) * r + C3) * r + C2
        return ((y * r + 1.0) * r + 1.0) * _power64(bits)

    return {types.float32: exp32, types.float64: exp64}.get(x)
