"""Making, joining and reducing CuPy arrays, under the names of the contract. Nothing here waits for the card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import cupy as cp

from mpipar.backend import bits
from mpipar.backend.base import Array, DType, Shape
from mpipar.backend.dtypes import cast, dtype, lowest, widen

BLOCK = 1 << 24  # elements that are hashed at a time: they bound the memory for it

exp, log, sqrt, tanh, absolute = cp.exp, cp.log, cp.sqrt, cp.tanh, cp.absolute
maximum, minimum, where, matmul = cp.maximum, cp.minimum, cp.where, cp.matmul
broadcast_to = cp.broadcast_to
uniform, keep_mask = partial(bits.uniform, cp, BLOCK), partial(bits.keep_mask, cp, BLOCK)


def empty(shape: Shape, dtype_: DType) -> Array:
    return cp.empty(shape, dtype(dtype_))


def zeros(shape: Shape, dtype_: DType) -> Array:
    return cp.zeros(shape, dtype(dtype_))


def full(shape: Shape, value: float, dtype_: DType) -> Array:
    return cp.full(shape, value, dtype(dtype_))


def arange(start: int, stop: int, dtype_: DType = "int64") -> Array:
    return cast(cp.arange(start, stop), dtype_)


def copy(x: Array) -> Array:
    return x.copy(order="C")


def contiguous(x: Array) -> Array:
    return x if x.flags.c_contiguous else copy(x)


def concatenate(pieces: Sequence[Array], dim: int) -> Array:
    return cp.concatenate(pieces, dim)


def as_array(x: Any) -> Array:
    return x  # reductions return 0-d arrays


def add_into(out: Array, x: Array) -> None:
    out[...] = cast(widen(out) + widen(x), out.dtype)


def scale_into(out: Array, factor: Array) -> None:
    out *= cast(factor, out.dtype)


def fill(out: Array, value: float) -> None:
    out.fill(value)


def copy_into(out: Array, x: Array) -> None:
    out[...] = cast(x, out.dtype)


def add(x: Array, y: Array) -> Array:
    return x + y


def copy_scaled(out: Array, x: Array, factor: Array) -> None:
    out[...] = x * factor


def affine(a: Array, b: Array, bias: Array) -> Array:
    return cp.matmul(a, b) + bias


def add_product(out: Array, a: Array, b: Array) -> None:
    out += cp.matmul(a, b)


def sum(x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
    wide = widen(x)
    total = cp.sum(wide, None if dims is None else tuple(dims), keepdims=keepdims)
    return total if wide is x else cast(total, x.dtype)  # whole numbers of fewer bits add up in int64


def max(x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
    axes, wide = None if dims is None else tuple(dims), widen(x)
    if x.size == 0:  # CuPy has no maximum of nothing
        return full(cp.sum(wide, axes, keepdims=keepdims).shape, lowest(x), x.dtype)
    return cast(cp.max(wide, axes, keepdims=keepdims), x.dtype)


def argmax(x: Array, dim: int) -> Array:
    return cp.argmax(widen(x), dim)


def cumsum(x: Array, dim: int) -> Array:
    wide = widen(x)
    total = cp.cumsum(wide, dim)
    return total if wide is x else cast(total, x.dtype)


def square_sum(x: Array) -> Array:
    return cp.sum(cp.square(cast(x, "float64")))
