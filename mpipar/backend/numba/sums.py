"""Sums of arrays on several threads of a rank: each sums a part of the rows, most of them in NumPy's own loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numba.threads import over, workers
from mpipar.backend.numpy import arrays as plain

BLOCK = 1 << 14  # numbers whose squares are summed first


def add(x: Array, y: Array) -> Array:
    """With y of the shape of x, or of its last dim as a bias is."""
    if workers.count == 1 or not (x.ndim and y.shape in (x.shape, x.shape[-1:]) and alike(x, y)):
        return plain.add(x, y)
    out = np.empty(x.shape, x.dtype)
    a, to, b = matrix(x), matrix(out), matrix(y)
    whole = y.shape == x.shape
    over(len(a), a.shape[1], lambda part: np.add(a[part], b[part] if whole else b, out=to[part]))
    return out


def add_into(out: Array, x: Array) -> None:
    if workers.count == 1 or not (x.ndim and out.shape == x.shape and alike(out, x)):
        plain.add_into(out, x)
        return
    to, a = matrix(out), matrix(x)
    over(len(to), to.shape[1], lambda part: np.add(to[part], a[part], out=to[part]))


def sum(x: Array, dims: Sequence[int] | None = None, keepdims: bool = False) -> Array:
    """Of rows, as for the gradient of a bias: each part of them first, then these in their order."""
    columns = dims is not None and tuple(dims) == tuple(range(x.ndim - 1))
    if workers.count == 1 or keepdims or not (columns and x.ndim > 1 and alike(x, x)):
        return plain.sum(x, dims, keepdims)
    rows, found = matrix(x), {}

    def of(part: slice) -> None:
        found[part.start] = np.sum(rows[part], 0)

    over(len(rows), rows.shape[1], of)
    return np.sum([found[start] for start in sorted(found)], 0, dtype=x.dtype) if len(found) > 1 else found[0]


def square_sum(x: Array) -> Array:
    """The sums of blocks, which are added in their order: the same bits on any number of threads."""
    if x.size <= BLOCK or not alike(x, x):
        return plain.square_sum(x)
    flat, sums = x.reshape(-1), np.empty(-(-x.size // BLOCK))
    over(len(sums), BLOCK, lambda part: _square_sums(flat[part.start * BLOCK :], sums[part]))
    return np.array(np.sum(sums))


@compiled()
def _square_sums(x, sums):  # type: ignore[no-untyped-def]
    for k in range(sums.size):
        sums[k] = _square_sum(x[k * BLOCK : (k + 1) * BLOCK])


@compiled()
def _square_sum(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.size):
        wide = np.float64(x[i])
        total += wide * wide
    return total


def matrix(x: Array) -> Array:
    """As rows of its last dim."""
    return x.reshape(-1, x.shape[-1])


def alike(x: Array, y: Array) -> bool:
    """Whether parts of their rows are parts of their memory, of one floating dtype that NumPy adds up as it is."""
    one = x.dtype == y.dtype and x.dtype in (np.float32, np.float64)
    return bool(one and x.size and x.flags.c_contiguous and y.flags.c_contiguous)
