"""Attention blocked over queries, as in NumPy (backend/numpy/attend.py), in blocks that fill a card.

The block bounds memory: of the scores only BLOCK rows exist at a time, none are kept. Shapes are (B, K, G, T, D): K
heads of keys, each for a group of G heads of queries.
"""

from __future__ import annotations

import cupy as cp

from mpipar.backend.base import Array
from mpipar.backend.cupy.arrays import max
from mpipar.backend.numpy.attend import grouping, groups, heads, joined, query_blocks

BLOCK = 1024  # queries a block


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    (b, t, h, _), keys = q.shape, k.shape[1]
    out = cp.empty((b, t, h, v.shape[3]), q.dtype)
    lse = cp.empty((b, h, t), q.dtype)
    values, to, lse_to = heads(v)[:, :, None], groups(out, k), lse.reshape(b, *grouping(h, k), t)
    for rows, seen in query_blocks(t, keys, causal, BLOCK):
        scores = masked_scores(q, k, rows, seen, scale, causal)
        top = max(scores, (-1,), keepdims=True)
        scores = cp.exp(scores - top)
        total = cp.sum(scores, -1, keepdims=True)
        to[..., rows, :] = cp.matmul(scores / total, values[..., :seen, :])
        lse_to[..., rows] = (top + cp.log(total))[..., 0]
    return out, lse


def attention_vjp(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, scale: float, causal: bool,
    into: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    gq, gk, gv = into or (cp.empty(q.shape, q.dtype), cp.empty(k.shape, k.dtype), cp.empty(v.shape, v.dtype))
    gk.fill(0)
    gv.fill(0)
    along = cp.sum(groups(g * out, k), -1, keepdims=True)  # Σ p·dp of each row, from g and out alone
    lse = lse.reshape(len(q), *grouping(q.shape[2], k), q.shape[1], 1)
    queries, upper, to = groups(q, k), groups(g, k), groups(gq, k)
    keys, values = heads(k)[:, :, None], heads(v)[:, :, None]  # (B, K, 1, S, D)
    for rows, seen in query_blocks(q.shape[1], k.shape[1], causal, BLOCK):
        p = cp.exp(masked_scores(q, k, rows, seen, scale, causal) - lse[..., rows, :])
        u = upper[..., rows, :]
        heads(gv)[:, :, :seen] += cp.matmul(joined(p).swapaxes(2, 3), joined(u))
        dp = cp.matmul(u, values[..., :seen, :].swapaxes(3, 4))
        dp = (dp - along[..., rows, :]) * p * scale
        to[..., rows, :] = cp.matmul(dp, keys[..., :seen, :])
        heads(gk)[:, :, :seen] += cp.matmul(joined(dp).swapaxes(2, 3), joined(queries[..., rows, :]))
    return gq, gk, gv


def masked_scores(q: Array, k: Array, rows: slice, seen: int, scale: float, causal: bool) -> Array:
    """scale·qkᵀ of a block (B, K, G, rows, seen), -inf above the diagonal."""
    scores = cp.matmul(groups(q, k)[..., rows, :], heads(k)[:, :, None, :seen].swapaxes(3, 4)) * scale
    if not causal:
        return scores
    n = rows.stop - rows.start
    hidden = cp.arange(seen)[None, :] > cp.arange(seen - n, seen)[:, None]
    return cp.where(hidden, scores.dtype.type(-cp.inf), scores)
