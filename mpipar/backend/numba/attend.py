"""The rows of attention in one compiled pass each; the products and the walk over blocks are NumPy's."""

from __future__ import annotations

from functools import partial

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.kernels import constants
from mpipar.backend.numpy import attend


def soften(scores: Array, lse: Array, scale: float, causal: bool) -> None:
    _soften(scores, lse, causal, *constants(scores.dtype, scale, -np.inf))


def soften_vjp(p: Array, dp: Array, lse: Array, along: Array, scale: float, causal: bool) -> None:
    _soften_vjp(p, dp, lse, along, causal, *constants(p.dtype, scale))


attention = partial(attend.attention, soften=soften)
attention_vjp = partial(attend.attention_vjp, soften_vjp=soften_vjp)


@compiled()
def _soften(scores, lse, causal, scale, lowest):  # type: ignore[no-untyped-def]
    rows, keys = scores.shape[-2:]
    zero = scale - scale
    for b, k, g, i in np.ndindex(scores.shape[:-1]):
        row = scores[b, k, g, i]
        seen = keys - rows + i + 1 if causal else keys
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
        lse[b, k, g, i] = top + np.log(total)


@compiled()
def _soften_vjp(p, dp, lse, along, causal, scale):  # type: ignore[no-untyped-def]
    rows, keys = p.shape[-2:]
    zero = scale - scale
    for b, k, g, i in np.ndindex(p.shape[:-1]):
        row, up = p[b, k, g, i], dp[b, k, g, i]
        seen = keys - rows + i + 1 if causal else keys
        level, mean = lse[b, k, g, i], along[b, k, g, i]
        for j in range(seen):
            e = exp(row[j] * scale - level)
            row[j] = e
            up[j] = (up[j] - mean) * e * scale
        row[seen:] = zero
        up[seen:] = zero
