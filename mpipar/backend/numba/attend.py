"""Attention in compiled code: a head and a block of queries at a time, the products by BLAS (see `blas`).

The algorithm is that of `backend.numpy.attend`, which is the reference. The scores of a block stay in the cache. Keys
and values of a head are copied together where several blocks of queries multiply them, and their gradients are added up
so; queries, which one block meets, are multiplied where they lie. Loops go over whole lanes, what is above the diagonal
being covered: the rest of a row, one number after the other, took as long as the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba import blas
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.gemm import product
from mpipar.backend.numba.kernels import constants
from mpipar.backend.numba.rows import cover, fill, largest, powers, together, whole_lanes
from mpipar.backend.numba.threads import over, workers
from mpipar.backend.numpy import attend as plain
from mpipar.backend.numpy.attend import BLOCK

LINE = 64  # bytes of the cache


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    if not blas.here().sgemm:
        return plain.attention(q, k, v, scale, causal)
    (b, t, h, _), q, k, v = q.shape, rows_of(q), rows_of(k), rows_of(v)
    out, lse = np.empty((b, t, h, v.shape[3]), q.dtype), np.empty((b, h, t), q.dtype)
    at, numbers = blas.here().of(q), constants(q.dtype, scale, -np.inf, 1)

    def of(some: slice, queries: slice, keys: slice) -> None:
        here, there = (some, slice(None), queries), (some, slice(None), keys)
        operands = q[here], k[there], v[there], out[here], lse[some, queries]
        _attention(at, *operands, scores_of(q, k), (head_of(k), head_of(v)), causal, *numbers)

    over_heads(q, k, of)
    return out, lse


def attention_vjp(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, scale: float, causal: bool,
    into: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    if not blas.here().sgemm:
        return plain.attention_vjp(g, q, k, v, out, lse, scale, causal, into)
    g, q, k, v, out = rows_of(g), rows_of(q), rows_of(k), rows_of(v), rows_of(out)
    gq, gk, gv = into or (np.empty(q.shape, q.dtype), np.empty(k.shape, k.dtype), np.empty(v.shape, v.dtype))
    at, numbers = blas.here().of(q), constants(q.dtype, scale, -np.inf, 1)

    def of(some: slice, queries: slice, keys: slice) -> None:
        here, there = (some, slice(None), queries), (some, slice(None), keys)
        operands = g[here], q[here], k[there], v[there], out[here], lse[some, queries]
        scores, room = (scores_of(q, k), scores_of(q, k)), [head_of(x) for x in (k, v, k, v)]
        _attention_vjp(at, *operands, gq[here], gk[there], gv[there], scores, tuple(room), causal, *numbers)

    over_heads(q, k, of)
    return gq, gk, gv


def scores_of(q: Array, k: Array) -> Array:
    """Room for the scores of a block of queries, in rows of whole lanes."""
    return aligned(q.dtype, min(BLOCK, q.shape[1]) * whole_lanes(k.shape[1]))


def head_of(x: Array) -> Array:
    """Room for one head of a sequence without gaps, which every block of queries meets: (T, D)."""
    return aligned(x.dtype, x.shape[1] * x.shape[3]).reshape(x.shape[1], x.shape[3])


def aligned(dtype: np.dtype[Any], size: int) -> Array:
    """Room that begins where a cache line does: a vector of 64 bytes never lies on two."""
    room = np.empty(size + LINE // dtype.itemsize, dtype)
    start = -room.__array_interface__["data"][0] % LINE // dtype.itemsize
    return room[start : start + size]


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
def copy(rows, into):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        row, to = together(rows[i]), together(into[i])
        for d in range(row.size):
            to[d] = row[d]


@compiled()
def multiply(row, factor):  # type: ignore[no-untyped-def]
    for d in range(row.size):
        row[d] *= factor


@compiled()
def inner(x, y, zero):  # type: ignore[no-untyped-def]
    total = zero
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@compiled()
def slopes(row, up, level, along):  # type: ignore[no-untyped-def]
    """Scores → probabilities, and the gradient of the probabilities → that of the scores but for the scale."""
    for j in range(row.size):
        e = exp(row[j] - level)
        row[j] = e
        up[j] = (up[j] - along) * e


@compiled()
def _attention(at, q, k, v, out, lse, scores, room, causal, scale, lowest, one):  # type: ignore[no-untyped-def]
    batch, queries, heads, _ = q.shape
    keys, group, zero = k.shape[1], heads // max(1, k.shape[2]), one - one
    ks, vs = room
    tops, totals = np.empty(BLOCK, q.dtype), np.empty(BLOCK, q.dtype)
    for b in range(batch):
        for h in range(heads):
            kh, vh = k[b, :, h // group], v[b, :, h // group]
            if queries > BLOCK:
                if h % group == 0:
                    copy(kh, ks)
                    copy(vh, vs)
                kh, vh = ks[:, : kh.shape[1]], vs[:, : vh.shape[1]]
            for start in range(0, queries, BLOCK):
                stop = min(queries, start + BLOCK)
                seen = keys - queries + stop if causal else keys
                s, to = matrix(scores, stop - start, whole_lanes(seen)), out[b, start:stop, h]
                product(at, scale, q[b, start:stop, h], kh[:seen], zero, s[:, :seen], False, True)
                for i in range(stop - start):
                    length = keys - queries + start + i + 1 if causal else keys
                    row = s[i, : whole_lanes(length)]
                    cover(row, length, lowest)
                    tops[i] = largest(row, lowest)
                    totals[i] = powers(row, tops[i], zero)
                    cover(row, length, zero)
                    fill(s[i, row.size :], zero)
                product(at, one, s[:, :seen], vh[:seen], zero, to, False, False)
                for i in range(stop - start):
                    lse[b, h, start + i] = tops[i] + np.log(totals[i])
                    multiply(together(to[i]), one / totals[i])


@compiled()
def _attention_vjp(at, g, q, k, v, out, lse, gq, gk, gv, scores, room, causal, scale, lowest, one):  # type: ignore[no-untyped-def]
    batch, queries, heads, _ = q.shape
    keys, group, zero = k.shape[1], heads // max(1, k.shape[2]), one - one
    (ps, dps), (ks, vs, gks, gvs) = scores, room
    alongs = np.empty(BLOCK, q.dtype)
    for b in range(batch):
        for h in range(heads):
            if h % group == 0:
                copy(k[b, :, h // group], ks)
                copy(v[b, :, h // group], vs)
                gks.fill(zero)
                gvs.fill(zero)
            for start in range(0, queries, BLOCK):
                here = slice(start, min(queries, start + BLOCK))
                n, seen = here.stop - start, keys - queries + here.stop if causal else keys
                x, u, o = q[b, here, h], g[b, here, h], out[b, here, h]
                p, dp = matrix(ps, n, whole_lanes(seen)), matrix(dps, n, whole_lanes(seen))
                product(at, scale, x, ks[:seen], zero, p[:, :seen], False, True)
                product(at, one, u, vs[:seen], zero, dp[:, :seen], False, True)
                for i in range(n):
                    alongs[i] = inner(together(u[i]), together(o[i]), zero)
                for i in range(n):
                    length = keys - queries + start + i + 1 if causal else keys
                    row, up = p[i, : whole_lanes(length)], dp[i, : whole_lanes(length)]
                    cover(row, length, lowest)
                    cover(up, length, alongs[i])
                    slopes(row, up, lse[b, h, start + i], alongs[i])
                    cover(row, length, zero)
                    fill(p[i, row.size :], zero)
                    fill(dp[i, row.size :], zero)
                product(at, one, p[:, :seen], u, one, gvs[:seen], True, False)
                product(at, scale, dp[:, :seen], ks[:seen], zero, gq[b, here, h], False, False)
                product(at, scale, dp[:, :seen], x, one, gks[:seen], True, False)
            if h % group == group - 1:
                copy(gks, gk[b, :, h // group])
                copy(gvs, gv[b, :, h // group])
