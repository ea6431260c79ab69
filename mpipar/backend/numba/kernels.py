"""The kernels of networks as compiled loops: one pass over memory each. Rows are (N, C).

Each does what the NumPy kernel of its name does, to 1e-6 in float32 and 1e-12 in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled, exp
from mpipar.backend.numba.rows import largest, powers, powers_and_next
from mpipar.backend.numba.threads import over
from mpipar.backend.numpy.kernels import CUBE, SLOPE, flat, pairs_of, rows_of


def gelu(x: Array) -> Array:
    y = np.empty(x.shape, x.dtype)
    source, target, numbers = flat(x), y.reshape(-1), constants(x.dtype, 1, 2 * SLOPE, CUBE)
    over(x.size, 1, lambda part: _gelu(source[part], target[part], *numbers))
    return y


def gelu_vjp(g: Array, x: Array) -> Array:
    out = np.empty(x.shape, x.dtype)
    upper, source, target = flat(g), flat(x), out.reshape(-1)
    numbers = constants(x.dtype, 1, 2 * SLOPE, CUBE)
    over(x.size, 1, lambda part: _gelu_vjp(upper[part], source[part], target[part], *numbers))
    return out


def layer_norm(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, Any]:
    rows = rows_of(x)
    y = np.empty(rows.shape, rows.dtype)
    mean, scale = np.empty(len(rows), rows.dtype), np.empty(len(rows), rows.dtype)
    numbers = constants(x.dtype, 1, 1 / max(1, rows.shape[1]), eps)
    over(
        len(rows),
        rows.shape[1],
        lambda part: _layer_norm(rows[part], gain, bias, y[part], mean[part], scale[part], *numbers),
    )
    return y.reshape(x.shape), (mean, scale)


def layer_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array, Array]:
    rows, (mean, scale) = rows_of(x), saved
    upper, out = rows_of(g), np.empty(rows.shape, rows.dtype)
    (share,) = constants(x.dtype, 1 / max(1, rows.shape[1]))

    def of(part: slice, g_gain: Array, g_bias: Array) -> None:
        _layer_norm_vjp(
            upper[part], rows[part], gain, mean[part], scale[part], out[part], g_gain, g_bias, share
        )

    g_gain, g_bias = sums_over(rows, 2, of)
    return out.reshape(x.shape), g_gain, g_bias


def exp_sum(z: Array, top: Array) -> Array:
    total = np.empty(len(z), z.dtype)
    over(len(z), z.shape[1], lambda part: _exp_sum(z[part], top[part], total[part]))
    return total


def exp_rows(z: Array) -> tuple[Array, Array]:
    top, total = np.empty(len(z), z.dtype), np.empty(len(z), z.dtype)
    numbers = constants(z.dtype, -np.inf, 0)
    over(len(z), z.shape[1], lambda part: _exp_rows(z[part], top[part], total[part], *numbers))
    return top, total


def softmax_minus_hot(z: Array, lse: Array, columns: Array, first: int, scale: Array) -> Array:
    out = np.empty(z.shape, z.dtype)
    over(
        len(z),
        z.shape[1],
        lambda part: _softmax_minus_hot(z[part], lse[part], columns[part], first, scale[part], out[part]),
    )
    return out


def rms_norm(x: Array, gain: Array, eps: float) -> tuple[Array, Any]:
    rows = rows_of(x)
    y, scale = np.empty(rows.shape, rows.dtype), np.empty(len(rows), rows.dtype)
    numbers = constants(x.dtype, 1, 1 / max(1, rows.shape[1]), eps)
    over(len(rows), rows.shape[1], lambda part: _rms_norm(rows[part], gain, y[part], scale[part], *numbers))
    return y.reshape(x.shape), scale


def rms_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array]:
    rows, upper = rows_of(x), rows_of(g)
    out, (share,) = np.empty(rows.shape, rows.dtype), constants(x.dtype, 1 / max(1, rows.shape[1]))

    def of(part: slice, g_gain: Array) -> None:
        _rms_norm_vjp(upper[part], rows[part], gain, saved[part], out[part], g_gain, share)

    (g_gain,) = sums_over(rows, 1, of)
    return out.reshape(x.shape), g_gain


def swiglu(x: Array) -> Array:
    pairs = pairs_of(x)
    y = np.empty((len(pairs), x.shape[-1]), x.dtype)
    numbers = constants(x.dtype, 1)
    over(len(y), y.shape[1], lambda part: _swiglu(pairs[part], y[part], *numbers))
    return y.reshape(*x.shape[:-2], x.shape[-1])


def swiglu_vjp(g: Array, x: Array) -> Array:
    pairs = pairs_of(x)
    out = np.empty(pairs.shape, x.dtype)
    upper, numbers = g.reshape(len(pairs), x.shape[-1]), constants(x.dtype, 1)
    over(len(upper), upper.shape[1], lambda part: _swiglu_vjp(upper[part], pairs[part], out[part], *numbers))
    return out.reshape(x.shape)


def sums_over(rows: Array, count: int, of: Callable[..., None]) -> list[Array]:
    """`count` sums over all rows (C,): each part of the rows adds up its own, which are added in their order."""
    found: dict[int, list[Array]] = {}

    def part_of(part: slice) -> None:
        found[part.start] = [np.zeros(rows.shape[1], rows.dtype) for _ in range(count)]
        of(part, *found[part.start])

    over(len(rows), rows.shape[1], part_of)
    first, *others = [found[start] for start in sorted(found)]
    for more in others:
        for sum_, its in zip(first, more, strict=True):
            np.add(sum_, its, out=sum_)
    return first


@lru_cache(1000)  # of small arrays it takes longer to make them than to compute with them
def constants(dtype: Any, *values: float) -> tuple[Any, ...]:
    """Numbers of the arrays' own dtype: one of float64 would widen a loop over float32."""
    return tuple([dtype.type(value) for value in values])


@compiled()
def _gelu(x, y, one, twice, cube):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        v = x[i]
        y[i] = v / (one + exp(-twice * v * (one + cube * v * v)))


@compiled()
def _gelu_vjp(g, x, out, one, twice, cube):  # type: ignore[no-untyped-def]
    """With s = σ(2√(2/π)(x + 0.044715x³)), of which ½(1 + tanh) is another form."""
    for i in range(x.size):
        v = x[i]
        t = exp(-twice * abs(v) * (one + cube * v * v))
        r = one / (one + t)
        s = r if v >= 0 else t * r
        # t·r² is s(1 - s): 1 - s itself would keep few digits where s is near 1
        out[i] = g[i] * (s + v * t * r * r * twice * (one + (cube + cube + cube) * v * v))


@compiled()
def _layer_norm(x, gain, bias, y, mean, scale, one, share, eps):  # type: ignore[no-untyped-def]
    n, width = x.shape
    zero = one - one
    for i in range(n):
        total = zero
        for j in range(width):
            total += x[i, j]
        m = total * share
        square = zero
        for j in range(width):
            square += (x[i, j] - m) * (x[i, j] - m)
        r = one / np.sqrt(square * share + eps)
        for j in range(width):
            y[i, j] = (x[i, j] - m) * r * gain[j] + bias[j]
        mean[i], scale[i] = m, r


@compiled()
def _layer_norm_vjp(g, x, gain, mean, scale, out, g_gain, g_bias, share):  # type: ignore[no-untyped-def]
    n, width = x.shape
    zero = share - share
    for i in range(n):
        m, r = mean[i], scale[i]
        level, along = zero, zero
        for j in range(width):
            hat = (x[i, j] - m) * r
            w = g[i, j] * gain[j]
            level += w
            along += w * hat
            g_gain[j] += g[i, j] * hat
            g_bias[j] += g[i, j]
        level *= share
        along *= share
        for j in range(width):
            out[i, j] = (g[i, j] * gain[j] - level - (x[i, j] - m) * r * along) * r


@compiled()
def _exp_rows(z, top, total, lowest, zero):  # type: ignore[no-untyped-def]
    last = len(z) - 1
    for i in range(last + 1):
        if i == 0:
            top[i] = largest(z[i], lowest)
        if i < last:
            total[i], top[i + 1] = powers_and_next(z[i], z[i + 1], top[i], lowest, zero)
        else:
            total[i] = powers(z[i], top[i], zero)


@compiled()
def _exp_sum(z, top, total):  # type: ignore[no-untyped-def]
    n, width = z.shape
    for i in range(n):
        s = top[i] - top[i]
        for j in range(width):
            s += exp(z[i, j] - top[i])
        total[i] = s


@compiled()
def _softmax_minus_hot(z, lse, columns, first, scale, out):  # type: ignore[no-untyped-def]
    n, width = z.shape
    for i in range(n):
        for j in range(width):
            out[i, j] = exp(z[i, j] - lse[i]) * scale[i]
        column = columns[i] - first
        if 0 <= column < width:
            out[i, column] -= scale[i]


@compiled()
def _rms_norm(x, gain, y, scale, one, share, eps):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        square = one - one
        for j in range(width):
            square += x[i, j] * x[i, j]
        r = one / np.sqrt(square * share + eps)
        for j in range(width):
            y[i, j] = x[i, j] * r * gain[j]
        scale[i] = r


@compiled()
def _rms_norm_vjp(g, x, gain, scale, out, g_gain, share):  # type: ignore[no-untyped-def]
    n, width = x.shape
    for i in range(n):
        r = scale[i]
        along = share - share
        for j in range(width):
            hat = x[i, j] * r
            along += g[i, j] * gain[j] * hat
            g_gain[j] += g[i, j] * hat
        along *= share
        for j in range(width):
            out[i, j] = (g[i, j] * gain[j] - x[i, j] * r * along) * r


@compiled()
def _swiglu(x, y, one):  # type: ignore[no-untyped-def]
    n, width = y.shape
    for i in range(n):
        for j in range(width):
            a = x[i, 0, j]
            y[i, j] = a / (one + exp(-a)) * x[i, 1, j]


@compiled()
def _swiglu_vjp(g, x, out, one):  # type: ignore[no-untyped-def]
    n, width = g.shape
    for i in range(n):
        for j in range(width):
            a = x[i, 0, j]
            t = exp(-abs(a))
            r = one / (one + t)
            s = r if a >= 0 else t * r
            out[i, 0, j] = g[i, j] * x[i, 1, j] * (s + a * t * r * r)  # t·r² is s(1 - s)
            out[i, 1, j] = g[i, j] * a * s
