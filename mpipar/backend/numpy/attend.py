"""Attention blocked over queries: only BLOCK rows of the scores exist at a time, none are kept.

Forward keeps the log-sum-exp of each row; backward makes the probabilities of a block again from it
(Dao et al. 2022, FlashAttention, eq. 3-4). Under a causal mask a block sees only the keys up to its end.

Each head of k and v serves a group of G = H/K heads of q (Ainslie et al. 2023): heads of q are seen as (K, G).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from mpipar.backend.base import Array

BLOCK = 64  # queries a block


def soften(scores: Array, lse: Array, scale: float, causal: bool) -> None:
    """Products of queries and keys (…, rows, seen) → probabilities in place; the log-sum-exp of each row (…, rows)."""
    mask(scores, scale, causal)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    scores -= top
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    scores /= total
    lse[...] = (top + np.log(total))[..., 0]


def soften_vjp(p: Array, dp: Array, lse: Array, along: Array, scale: float, causal: bool) -> None:
    """Products → probabilities, and the gradient of the probabilities → that of the products, both in place."""
    mask(p, scale, causal)
    p -= lse[..., None]
    np.exp(p, out=p)
    dp -= along[..., None]
    dp *= p
    dp *= scale


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    (b, t, h, _), keys = q.shape, k.shape[1]
    out = np.empty((b, t, h, v.shape[3]), q.dtype)
    lse = np.empty((b, h, t), q.dtype)
    values, to, lse_to = heads(v)[:, :, None], groups(out, k), lse.reshape(b, *grouping(h, k), t)
    for rows, seen in query_blocks(t, keys, causal):
        scores = products(q, k, rows, seen)
        soften(scores, lse_to[..., rows], scale, causal)
        np.matmul(scores, values[..., :seen, :], out=to[..., rows, :])
        del scores  # one block at a time: not beside the next
    return out, lse


def attention_vjp(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, scale: float, causal: bool,
    into: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    gq, gk, gv = into or (np.empty(q.shape, q.dtype), np.empty(k.shape, k.dtype), np.empty(v.shape, v.dtype))
    gk.fill(0)
    gv.fill(0)
    by_group = (len(q), *grouping(q.shape[2], k), q.shape[1])  # (B, K, G, T)
    along = np.einsum("bthd,bthd->bht", g, out).reshape(by_group)  # Σ p·dp of each row, from g and out alone
    lse, queries, upper, to = lse.reshape(by_group), groups(q, k), groups(g, k), groups(gq, k)
    keys, values = heads(k)[:, :, None], heads(v)[:, :, None]  # (B, K, 1, S, D)
    for rows, seen in query_blocks(q.shape[1], k.shape[1], causal):
        p, u = products(q, k, rows, seen), upper[..., rows, :]
        dp = u @ values[..., :seen, :].swapaxes(3, 4)
        soften_vjp(p, dp, lse[..., rows], along[..., rows], scale, causal)
        heads(gv)[:, :, :seen] += joined(p).swapaxes(2, 3) @ joined(u)
        np.matmul(dp, keys[..., :seen, :], out=to[..., rows, :])
        heads(gk)[:, :, :seen] += joined(dp).swapaxes(2, 3) @ joined(queries[..., rows, :])
        del p, dp
    return gq, gk, gv


def query_blocks(queries: int, keys: int, causal: bool, block: int = BLOCK) -> Iterator[tuple[slice, int]]:
    """Rows of queries, and how many keys they see. At least two blocks, whatever the length."""
    size = min(block, max(1, -(-queries // 2)))
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        yield slice(start, stop), keys - queries + stop if causal else keys


def products(q: Array, k: Array, rows: slice, seen: int) -> Array:
    """qkᵀ of a block: (B, K, G, rows, seen)."""
    return groups(q, k)[..., rows, :] @ heads(k)[:, :, None, :seen].swapaxes(3, 4)


def mask(scores: Array, scale: float, causal: bool) -> None:
    """Times scale in place, -inf above the diagonal: the last row sees all keys, the one before it one less."""
    scores *= scale
    if causal:
        n, seen = scores.shape[-2:]
        scores[..., seen - n :] += above(n, scores.dtype.str)


def heads(x: Array) -> Array:
    """(B, T, H, D) seen as (B, H, T, D)."""
    return x.transpose(0, 2, 1, 3)


def grouping(heads: int, k: Array) -> tuple[int, int]:
    """How many groups, and the heads of q in each."""
    return k.shape[2], heads // (k.shape[2] or 1)


def groups(x: Array, k: Array) -> Array:
    """(B, T, H, D) seen as (B, K, G, T, D)."""
    b, t, h, d = x.shape
    return x.reshape(b, t, *grouping(h, k), d).transpose(0, 2, 3, 1, 4)


def joined(x: Array) -> Array:
    """(B, K, G, rows, N) → (B, K, G·rows, N): one product then sums over a group too."""
    b, k, g, rows, n = x.shape
    return x.reshape(b, k, g * rows, n)


@lru_cache(maxsize=16)
def above(n: int, dtype: str) -> Array:
    """-inf above the diagonal, 0 elsewhere: (n, n)."""
    return np.triu(np.full((n, n), -np.inf, dtype), 1)
