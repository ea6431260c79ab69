"""What follows a product, and its bias in the same pass over memory: GELU, or dropout and a residual."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.kernels import constants, sums_over
from mpipar.backend.numba.sums import alike, matrix
from mpipar.backend.numba.threads import over
from mpipar.backend.numpy import kernels as plain
from mpipar.backend.numpy.kernels import CUBE, SLOPE

CHUNK = 256  # numbers of a row that are worked on while as many more are fetched
LINE = 64  # bytes: of the cache


def bias_dropout_add(x: Array, bias: Array | None, mask: Array | None, residual: Array) -> Array:
    if not (x.ndim > 1 and all(alike(x, y) for y in (residual, mask) if y is not None)):
        return plain.bias_dropout_add(x, bias, mask, residual)
    out = np.empty(x.shape, x.dtype)
    if bias is None:
        bias = np.zeros(x.shape[-1], x.dtype)
    rows, to, onto = matrix(x), matrix(out), matrix(residual)
    if mask is None:
        over(len(rows), rows.shape[1], lambda part: _bias_add(rows[part], bias, onto[part], to[part]))
    else:
        kept = matrix(mask)
        over(len(rows), rows.shape[1], lambda part: _bias_dropout_add(
            rows[part], bias, kept[part], onto[part], to[part]
        ))  # fmt: skip
    return out


def biased_gelu(x: Array, bias: Array) -> Array:
    y = np.empty(x.shape, x.dtype)
    numbers = constants(x.dtype, 1, 2 * SLOPE, CUBE)
    over(len(x), x.shape[1], lambda part: _biased_gelu(x[part], bias, y[part], *numbers))
    return y


def biased_gelu_vjp_into(g: Array, x: Array, bias: Array) -> Array:
    numbers = constants(x.dtype, 1, 2 * SLOPE, CUBE)
    (total,) = sums_over(x, 1, lambda part, sums: _biased_gelu_vjp(g[part], x[part], bias, sums, *numbers))
    return total


@compiled()
def _bias_add(x, bias, residual, out):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        for j in range(width):
            out[i, j] = residual[i, j] + (x[i, j] + bias[j])


@compiled()
def _bias_dropout_add(x, bias, mask, residual, out):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        for j in range(width):
            out[i, j] = residual[i, j] + (x[i, j] + bias[j]) * mask[i, j]


@compiled()
def _biased_gelu(x, bias, y, one, twice, cube):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        for start in range(0, width, CHUNK):
            part = slice(start, start + CHUNK)
            _fetch_next(x[i, part])
            _chunk_of_gelu(x[i, part], bias[part], y[i, part], one, twice, cube)


@compiled()
def _chunk_of_gelu(x, bias, y, one, twice, cube):  # type: ignore[no-untyped-def]
    for j in range(x.size):
        v = x[j] + bias[j]
        y[j] = v / (one + exp(-twice * v * (one + cube * v * v)))


@compiled()
def _biased_gelu_vjp(g, x, bias, sums, one, twice, cube):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        for start in range(0, width, CHUNK):
            part = slice(start, start + CHUNK)
            _fetch_next(g[i, part])
            _fetch_next(x[i, part])
            _chunk_of_vjp(g[i, part], x[i, part], bias[part], sums[part], one, twice, cube)


@compiled()
def _chunk_of_vjp(g, x, bias, sums, one, twice, cube):  # type: ignore[no-untyped-def]
    """See `kernels._gelu_vjp`."""
    for j in range(g.size):
        v = x[j] + bias[j]
        t = exp(-twice * abs(v) * (one + cube * v * v))
        r = one / (one + t)
        s = r if v >= 0 else t * r
        d = g[j] * (s + v * t * r * r * twice * (one + (cube + cube + cube) * v * v))
        g[j] = d
        sums[j] += d


@compiled()
def _fetch_next(chunk):  # type: ignore[no-untyped-def]
    """Asks for what follows a chunk in memory: where much is computed, the processor itself asks too late."""
    for byte in range(chunk.nbytes, 2 * chunk.nbytes, LINE):
        prefetch(chunk.ctypes.data + byte)


@intrinsic
def prefetch(context: Any, address: Any) -> Any:
    """Asks for the line of the cache that holds an address, which need not be one of ours."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), fnty=kind)
        read, keep, data = (ir.Constant(word, number) for number in (0, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate
