"""Making, joining, converting and reducing NumPy arrays, under the names of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from mpipar.backend import bits
from mpipar.backend.base import Array, DType, Shape
from mpipar.backend.dtypes import dtype, lowest, widen

BLOCK = 1 << 15  # elements that a kernel works on at a time: temporaries stay in the cache

exp, log, sqrt, tanh, absolute = np.exp, np.log, np.sqrt, np.tanh, np.absolute
maximum, minimum, where, matmul = np.maximum, np.minimum, np.where, np.matmul
broadcast_to = np.broadcast_to
uniform, normal, keep_mask = (
    partial(draw, np, BLOCK) for draw in (bits.uniform, bits.normal, bits.keep_mask)
)


def from_host(value: Any, dtype_: DType | None = None) -> Array:
    """An array of one's own of a number, a list or an array."""
    x = np.array(value, dtype=None if dtype_ is None else dtype(dtype_), order="C")
    if x.dtype == object:
        raise TypeError(f"an array of numbers is wanted, not {type(value).__name__}")
    return x


def from_bytes(data: bytes, shape: Shape, dtype_: str = "uint8") -> Array:
    return np.frombuffer(data, np.dtype(dtype_).newbyteorder("<")).reshape(shape).astype(np.int64)


def to_host(x: Array) -> Any:
    return np.array(x)


def item(x: Array) -> Any:
    return x.item()


def text(x: Array) -> str:
    return np.array2string(widen(x), precision=4, threshold=8, edgeitems=2)


def empty(shape: Shape, dtype_: DType) -> Array:
    return np.empty(shape, dtype(dtype_))


def zeros(shape: Shape, dtype_: DType) -> Array:
    return np.zeros(shape, dtype(dtype_))


def full(shape: Shape, value: float, dtype_: DType) -> Array:
    return np.full(shape, value, dtype(dtype_))


def arange(start: int, stop: int, dtype_: DType = "int64") -> Array:
    return np.arange(start, stop).astype(dtype(dtype_), copy=False)


def copy(x: Array) -> Array:
    return np.array(x, order="C")


def contiguous(x: Array) -> Array:
    return np.asarray(x, order="C")  # ascontiguousarray would make a 0-d array 1-d


def wire(x: Array) -> Any:
    return x.reshape(-1).view(np.uint8)


def addresses(x: Array) -> tuple[int, int]:
    return np.lib.array_utils.byte_bounds(x)


def concatenate(pieces: Sequence[Array], dim: int) -> Array:
    return np.concatenate(pieces, dim)


def as_array(x: Any) -> Array:
    return np.asarray(x)


def add_into(out: Array, x: Array) -> None:
    out += x


def scale_into(out: Array, factor: Array) -> None:
    out *= factor.astype(out.dtype)


def fill(out: Array, value: float) -> None:
    out.fill(value)


def copy_into(out: Array, x: Array) -> None:
    out[...] = x


def copy_scaled(out: Array, x: Array, factor: Array) -> None:
    np.multiply(x, factor, out=out)


def affine(a: Array, b: Array, bias: Array) -> Array:
    out = np.matmul(a, b)
    out += bias
    return out


def add_product(out: Array, a: Array, b: Array) -> None:
    out += np.matmul(a, b)


def add(x: Array, y: Array) -> Array:
    return x + y


def sum(x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
    return np.sum(x, None if dims is None else tuple(dims), keepdims=keepdims)


def max(x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
    return np.max(x, None if dims is None else tuple(dims), keepdims=keepdims, initial=lowest(x))


def argmax(x: Array, dim: int) -> Array:
    return np.argmax(x, dim)


def cumsum(x: Array, dim: int) -> Array:
    return np.cumsum(x, dim)


def square_sum(x: Array) -> Array:
    flat = np.asarray(x, order="C").reshape(-1)
    total = 0.0
    for part in blocks(flat.size):
        wide = flat[part].astype(np.float64, copy=False)
        total += np.dot(wide, wide)
    return np.array(total)


def blocks(count: int, width: int = 1) -> Iterator[slice]:
    """Slices over `count` rows of `width` elements, about BLOCK elements each."""
    return bits.blocks(count, width, BLOCK)
