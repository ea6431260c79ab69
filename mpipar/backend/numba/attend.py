"""Attention in compiled code: a head and a block of queries at a time, the products by BLAS (see `blas`).

The algorithm is that of `backend.numpy.attend`, which is the reference. The scores of a block stay in the cache, and
gradients of keys and values are added up in their own place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba import blas
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.gemm import product
from mpipar.backend.numba.kernels import constants
from mpipar.backend.numba.rows import largest, powers
from mpipar.backend.numba.threads import over, workers
from mpipar.backend.numpy import attend as plain
from mpipar.backend.numpy.attend import BLOCK


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    if not blas.here().sgemm:
        return plain.attention(q, k, v, scale, causal)
    (b, t, h, _), q, k, v = q.shape, rows_of(q), rows_of(k), rows_of(v)
    out, lse = np.empty((b, t, h, v.shape[3]), q.dtype), np.empty((b, h, t), q.dtype)
    at, numbers = blas.here().of(q), constants(q.dtype, scale, -np.inf, 1)

    def of(some: slice, queries: slice, keys: slice) -> None:
        scores = np.empty(min(BLOCK, t) * k.shape[1], q.dtype)
        here, there = (some, slice(None), queries), (some, slice(None), keys)
        _attention(at, q[here], k[there], v[there], out[here], lse[some, queries], scores, causal, *numbers)

    over_heads(q, k, of)
    return out, lse


def attention_vjp(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, scale: float, causal: bool,
    into: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    if not blas.here().sgemm:
        return plain.attention_vjp(g, q, k, v, out, lse, scale, causal, into)
    g, q, k, v = rows_of(g), rows_of(q), rows_of(k), rows_of(v)
    gq, gk, gv = into or (np.empty(q.shape, q.dtype), np.empty(k.shape, k.dtype), np.empty(v.shape, v.dtype))
    at, numbers = blas.here().of(q), constants(q.dtype, scale, 1)

    def of(some: slice, queries: slice, keys: slice) -> None:
        p, dp = (np.empty(min(BLOCK, q.shape[1]) * k.shape[1], q.dtype) for _ in range(2))
        here, there = (some, slice(None), queries), (some, slice(None), keys)
        operands = g[here], q[here], k[there], v[there], out[here], lse[some, queries]
        _attention_vjp(at, *operands, gq[here], gk[there], gv[there], p, dp, causal, *numbers)

    over_heads(q, k, of)
    return gq, gk, gv


def over_heads(q: Array, k: Array, of: Callable[[slice, slice, slice], None]) -> None:
    """Calls `of` with parts of the batch, or of one sequence's heads of queries and the keys that these need."""
    batch, length, heads, width = q.shape
    group = heads // max(1, k.shape[2])
    if batch >= workers.count:
        over(batch, length * heads * width, lambda part: of(part, slice(None), slice(None)))
        return
    over(k.shape[2], batch * length * group * width, lambda part: of(
        slice(None), slice(group * part.start, group * part.stop), part
    ))  # fmt: skip


def rows_of(x: Array) -> Array:
    """(B, T, H, D) as BLAS takes it: the numbers of a row side by side, rows at least their length apart."""
    size = x.itemsize
    fits = x.strides[3] == size and x.strides[1] >= x.shape[3] * size and x.strides[1] % size == 0
    return x if fits else np.ascontiguousarray(x)


@compiled()
def matrix(flat, rows, columns):  # type: ignore[no-untyped-def]
    """The first numbers as a matrix without gaps: loops over rows that lie apart are not made lanes of."""
    return flat[: rows * columns].reshape(rows, columns)


@compiled()
def slopes(row, up, length, level, along, scale, zero):  # type: ignore[no-untyped-def]
    """Scores → probabilities, and the gradient of the probabilities → that of the scores; 0 from `length` on."""
    for j in range(length):
        e = exp(row[j] - level)
        row[j] = e
        up[j] = (up[j] - along) * e * scale
    for j in range(length, row.size):
        row[j] = zero
        up[j] = zero


@compiled()
def inner(x, y, zero):  # type: ignore[no-untyped-def]
    total = zero
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@compiled()
def _attention(at, q, k, v, out, lse, scores, causal, scale, lowest, one):  # type: ignore[no-untyped-def]
    batch, queries, heads, _ = q.shape
    keys, group, zero = k.shape[1], heads // max(1, k.shape[2]), one - one
    shares = np.empty_like(scores[:BLOCK])
    for b in range(batch):
        for h in range(heads):
            kv = h // group
            for start in range(0, queries, BLOCK):
                stop = min(queries, start + BLOCK)
                seen = keys - queries + stop if causal else keys
                s = matrix(scores, stop - start, seen)
                product(at, scale, q[b, start:stop, h], k[b, :seen, kv], zero, s, False, True)
                for i in range(stop - start):
                    row, length = s[i], keys - queries + start + i + 1 if causal else keys
                    top = largest(row[:length], lowest)
                    total = powers(row, length, top, zero)
                    lse[b, h, start + i] = top + np.log(total)
                    shares[i] = one / total
                to = out[b, start:stop, h]
                product(at, one, s, v[b, :seen, kv], zero, to, False, False)
                for i in range(stop - start):
                    for d in range(to.shape[1]):
                        to[i, d] *= shares[i]


@compiled()
def _attention_vjp(at, g, q, k, v, out, lse, gq, gk, gv, ps, dps, causal, scale, one):  # type: ignore[no-untyped-def]
    batch, queries, heads, _ = q.shape
    keys, group, zero = k.shape[1], heads // max(1, k.shape[2]), one - one
    blocks = (queries + BLOCK - 1) // BLOCK
    for b in range(batch):
        for h in range(heads):
            kv = h // group
            for block in range(blocks - 1, -1, -1):  # the last sees all keys: it sets what the others add to
                start = block * BLOCK
                stop = min(queries, start + BLOCK)
                seen = keys - queries + stop if causal else keys
                before = zero if block == blocks - 1 and h % group == 0 else one
                p, dp = matrix(ps, stop - start, seen), matrix(dps, stop - start, seen)
                u, here = g[b, start:stop, h], slice(start, stop)
                product(at, scale, q[b, here, h], k[b, :seen, kv], zero, p, False, True)
                product(at, one, u, v[b, :seen, kv], zero, dp, False, True)
                for i in range(stop - start):
                    row, up, length = p[i], dp[i], keys - queries + start + i + 1 if causal else keys
                    along = inner(u[i], out[b, start + i, h], zero)
                    slopes(row, up, length, lse[b, h, start + i], along, scale, zero)
                product(at, one, p, u, before, gv[b, :seen, kv], True, False)
                product(at, one, dp, k[b, :seen, kv], zero, gq[b, here, h], False, False)
                product(at, one, dp, q[b, here, h], before, gk[b, :seen, kv], True, False)
