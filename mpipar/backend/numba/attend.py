"""The rows of attention in one compiled pass each; the products and the walk over blocks are NumPy's."""

from __future__ import annotations

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.kernels import constants
from mpipar.backend.numpy.attend import heads, query_blocks


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> tuple[Array, Array]:
    (b, t, h, _), keys = q.shape, k.shape[1]
    out = np.empty((b, t, h, v.shape[3]), q.dtype)
    lse = np.empty((b, h, t), q.dtype)
    numbers = constants(q.dtype, scale, -np.inf)
    for rows, seen in query_blocks(t, keys, causal):
        scores = heads(q)[:, :, rows] @ heads(k)[:, :, :seen].swapaxes(2, 3)
        _soften(scores, lse[:, :, rows], causal, *numbers)
        np.matmul(scores, heads(v)[:, :, :seen], out=heads(out)[:, :, rows])
        del scores  # one block at a time: not beside the next
    return out, lse


def attention_vjp(
    g: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, scale: float, causal: bool
) -> tuple[Array, Array, Array]:
    gq, gk, gv = np.empty(q.shape, q.dtype), np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
    along = np.einsum("bthd,bthd->bht", g, out)  # Σ p·dp of each row, from g and out alone
    (factor,) = constants(q.dtype, scale)
    for rows, seen in query_blocks(q.shape[1], k.shape[1], causal):
        p = heads(q)[:, :, rows] @ heads(k)[:, :, :seen].swapaxes(2, 3)
        upper = heads(g)[:, :, rows]
        dp = upper @ heads(v)[:, :, :seen].swapaxes(2, 3)
        _probabilities(p, dp, lse[:, :, rows], along[:, :, rows], causal, factor)
        heads(gv)[:, :, :seen] += p.swapaxes(2, 3) @ upper
        np.matmul(dp, heads(k)[:, :, :seen], out=heads(gq)[:, :, rows])
        heads(gk)[:, :, :seen] += dp.swapaxes(2, 3) @ heads(q)[:, :, rows]
        del p, dp
    return gq, gk, gv


@compiled()
def _soften(scores, lse, causal, scale, lowest):  # type: ignore[no-untyped-def]
    """Scores → probabilities in place, and the log-sum-exp of each row; row i of n sees all keys but the last n - 1 - i."""
    batch, heads, n, keys = scores.shape
    zero = scale - scale
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                row = scores[b, h, i]
                seen = keys - n + i + 1 if causal else keys
                top = lowest
                for j in range(seen):
                    top = max(top, row[j])
                top *= scale
                total = zero
                for j in range(seen):
                    e = exp(row[j] * scale - top)
                    row[j] = e
                    total += e
                for j in range(seen):
                    row[j] /= total
                row[seen:] = zero
                lse[b, h, i] = top + np.log(total)


@compiled()
def _probabilities(p, dp, lse, along, causal, scale):  # type: ignore[no-untyped-def]
    """Scores → probabilities, and the gradient of the probabilities → that of the scores, both in place."""
    batch, heads, n, keys = p.shape
    zero = scale - scale
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                row, up = p[b, h, i], dp[b, h, i]
                seen = keys - n + i + 1 if causal else keys
                level, mean = lse[b, h, i], along[b, h, i]
                for j in range(seen):
                    e = exp(row[j] * scale - level)
                    row[j] = e
                    up[j] = (up[j] - mean) * e * scale
                row[seen:] = zero
                up[seen:] = zero
