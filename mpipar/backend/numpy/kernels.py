"""The kernels of networks in NumPy: in place on blocks that stay in the cache. Rows are (N, C)."""

from __future__ import annotations

from math import pi, prod, sqrt
from typing import Any

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numpy.arrays import blocks

SLOPE, CUBE = sqrt(2 / pi), 0.044715  # GELU's √(2/π) and its cubic term


def rows_of(x: Array) -> Array:
    """(…, C) → contiguous (N, C)."""
    return np.asarray(x, order="C").reshape(-1, x.shape[-1]) if x.size else x.reshape(0, x.shape[-1])


def flat(x: Array) -> Array:
    return np.asarray(x, order="C").reshape(-1)


def sigmoid(x: Array) -> Array:
    return _sigmoid_into(np.empty(x.shape, x.dtype), x)


def _sigmoid_into(y: Array, x: Array) -> Array:
    np.multiply(x, 0.5, out=y)  # ½(1 + tanh(x/2)): no overflow on either side
    np.tanh(y, out=y)
    y += 1
    y *= 0.5
    return y


def gelu(x: Array) -> Array:
    y = np.empty(x.shape, x.dtype)
    source, target = flat(x), y.reshape(-1)
    for part in blocks(source.size):
        v, t = source[part], target[part]
        _gelu_tanh(v, t)
        t += 1
        t *= v
        t *= 0.5
    return y


def gelu_vjp(g: Array, x: Array) -> Array:
    out = np.empty(x.shape, x.dtype)
    source, upper, target = flat(x), flat(g), out.reshape(-1)
    for part in blocks(source.size):
        v, u = source[part], target[part]
        _gelu_slope(v, u, np.empty_like(v))
        u *= upper[part]
    return out


def biased_gelu(x: Array, bias: Array) -> Array:
    y = np.empty(x.shape, x.dtype)
    for part in blocks(len(x), 4 * x.shape[1]):
        y[part] = gelu(x[part] + bias)
    return y


def biased_gelu_vjp_into(g: Array, x: Array, bias: Array) -> Array:
    total = np.zeros(bias.shape, g.dtype)
    for part in blocks(len(x), 4 * x.shape[1]):  # smaller ones, for there are three more arrays of a block
        _multiply_by_slope(g[part], x[part] + bias)
        total += g[part].sum(0)
    return total


def bias_dropout_add(x: Array, bias: Array | None, mask: Array | None, residual: Array) -> Array:
    """The sum is made in the first array that is its own."""
    y = x if bias is None else x + bias
    if mask is not None:
        y = np.multiply(y, mask, out=None if y is x else y)
    return np.add(residual, y, out=None if y is x else y)


def _multiply_by_slope(g: Array, v: Array) -> None:
    """Changes v, too."""
    slope = np.empty_like(v)
    _gelu_slope(v, slope, v)
    g *= slope


def _gelu_slope(v: Array, u: Array, spare: Array) -> None:
    """u = ½(1 + t) + ½v(1 - t²)·√(2/π)(1 + 3·0.044715v²) with t = tanh(…). `spare` is written to, v may lend itself."""
    t = _gelu_tanh(v, np.empty_like(v))
    np.multiply(v, v, out=u)
    u *= 3 * CUBE * SLOPE
    u += SLOPE
    u *= v
    np.multiply(t, t, out=spare)
    np.subtract(1, spare, out=spare)
    u *= spare
    u += t
    u += 1
    u *= 0.5


def _gelu_tanh(v: Array, t: Array) -> Array:
    """t = tanh(√(2/π)(v + 0.044715v³))."""
    np.multiply(v, v, out=t)
    t *= CUBE * SLOPE
    t += SLOPE
    t *= v
    return np.tanh(t, out=t)


def softmax(x: Array, dim: int) -> Array:
    y = x - np.max(x, dim, keepdims=True, initial=-np.inf)
    np.exp(y, out=y)
    y /= y.sum(dim, keepdims=True)
    return y


def softmax_vjp(g: Array, y: Array, dim: int) -> Array:
    out = g * y
    out -= y * out.sum(dim, keepdims=True)
    return out


def layer_norm(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, Any]:
    rows = rows_of(x)
    n, width = rows.shape
    y = np.empty(rows.shape, rows.dtype)
    mean, scale = np.empty((n, 1), rows.dtype), np.empty((n, 1), rows.dtype)  # scale: 1 / standard deviation
    for part in blocks(n, width):
        v, out = rows[part], y[part]
        mean[part] = v.mean(1, keepdims=True)
        np.subtract(v, mean[part], out=out)
        variance = np.einsum("nc,nc->n", out, out)[:, None]
        variance /= width
        variance += eps
        scale[part] = 1 / np.sqrt(variance)
        out *= scale[part]
        out *= gain
        out += bias
    return y.reshape(x.shape), (mean, scale)


def layer_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array, Array]:
    rows, upper, (mean, scale) = rows_of(x), rows_of(g), saved
    n, width = rows.shape
    out = np.empty(rows.shape, rows.dtype)
    g_gain, g_bias = np.zeros(width, rows.dtype), np.zeros(width, rows.dtype)
    for part in blocks(n, width):
        o, u = out[part], upper[part]
        hat = rows[part] - mean[part]
        hat *= scale[part]
        g_gain += np.einsum("nc,nc->c", u, hat)
        g_bias += u.sum(0)
        np.multiply(u, gain, out=o)
        along = np.einsum("nc,nc->n", o, hat)[:, None]
        along /= width
        hat *= along
        o -= o.mean(1, keepdims=True)
        o -= hat
        o *= scale[part]
    return out.reshape(x.shape), g_gain, g_bias


def rms_norm(x: Array, gain: Array, eps: float) -> tuple[Array, Any]:
    rows = rows_of(x)
    n, width = rows.shape
    y, scale = np.empty(rows.shape, rows.dtype), np.empty((n, 1), rows.dtype)  # scale: 1 / root mean square
    for part in blocks(n, width):
        v, out = rows[part], y[part]
        square = np.einsum("nc,nc->n", v, v)[:, None]
        square /= width
        square += eps
        scale[part] = 1 / np.sqrt(square)
        np.multiply(v, scale[part], out=out)
        out *= gain
    return y.reshape(x.shape), scale


def rms_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array]:
    rows, upper, scale = rows_of(x), rows_of(g), saved
    n, width = rows.shape
    out, g_gain = np.empty(rows.shape, rows.dtype), np.zeros(width, rows.dtype)
    for part in blocks(n, width):
        o, u = out[part], upper[part]
        hat = rows[part] * scale[part]
        g_gain += np.einsum("nc,nc->c", u, hat)
        np.multiply(u, gain, out=o)
        along = np.einsum("nc,nc->n", o, hat)[:, None]
        along /= width
        hat *= along
        o -= hat
        o *= scale[part]
    return out.reshape(x.shape), g_gain


def swiglu(x: Array) -> Array:
    pairs = pairs_of(x)
    y = np.empty((len(pairs), x.shape[-1]), x.dtype)
    for part in blocks(*y.shape):
        gate = np.copy(pairs[part, 0])  # arithmetic on rows that lie apart costs four times as much
        out = _sigmoid_into(y[part], gate)
        out *= gate
        out *= pairs[part, 1]
    return y.reshape(*x.shape[:-2], x.shape[-1])


def swiglu_vjp(g: Array, x: Array) -> Array:
    """(g·b·(s + silu(a)(1 - s)), g·silu(a)) with s = σ(a) and silu(a) = a·s."""
    pairs = pairs_of(x)
    upper, out = g.reshape(len(pairs), x.shape[-1]), np.empty(pairs.shape, x.dtype)
    for part in blocks(*upper.shape):
        gate, u = np.copy(pairs[part, 0]), upper[part]
        s = sigmoid(gate)
        gate *= s  # silu(a)
        np.multiply(u, gate, out=out[part, 1])
        gate *= 1 - s
        s += gate
        s *= u
        np.multiply(s, pairs[part, 1], out=out[part, 0])
    return out.reshape(x.shape)


def pairs_of(x: Array) -> Array:
    """(…, 2, F) → contiguous (N, 2, F)."""
    return np.asarray(x, order="C").reshape(prod(x.shape[:-2]), 2, x.shape[-1])


def take_rows(table: Array, rows: Array, first: int) -> Array:
    here, inside = _here(rows, first, len(table))
    if len(table) == 0:
        return np.zeros((*rows.shape, *table.shape[1:]), table.dtype)
    y = table[here]
    if not inside.all():
        y[~inside] = 0
    return y


def put_rows(g: Array, rows: Array, first: int, count: int) -> Array:
    out = np.zeros((count, *g.shape[rows.ndim :]), g.dtype)
    add_rows(out, g, rows, first)
    return out


def add_rows(out: Array, g: Array, rows: Array, first: int) -> None:
    """Sorted by row, so that each is added to once: `np.add.at` takes ten times as long."""
    here, inside = _here(rows.reshape(-1), first, len(out))
    if not inside.any():
        return
    chosen = np.flatnonzero(inside)
    chosen = chosen[np.argsort(here[chosen], kind="stable")]
    where = here[chosen]
    starts = np.flatnonzero(np.concatenate(([True], where[1:] != where[:-1])))
    out[where[starts]] += np.add.reduceat(g.reshape(len(here), *out.shape[1:])[chosen], starts, axis=0)


def exp_sum(z: Array, top: Array) -> Array:
    total = np.empty(len(z), z.dtype)
    for part in blocks(len(z), z.shape[1]):
        e = z[part] - top[part, None]
        total[part] = np.exp(e, out=e).sum(1)
    return total


def exp_rows(z: Array) -> tuple[Array, Array]:
    top = z.max(1, initial=-np.inf)
    total = np.empty(len(z), z.dtype)
    for part in blocks(len(z), z.shape[1]):
        z[part] -= top[part, None]
        total[part] = np.exp(z[part], out=z[part]).sum(1)
    return top, total


def subtract_at(z: Array, columns: Array, first: int, amounts: Array) -> None:
    here, inside = _here(columns, first, z.shape[1])
    rows = np.flatnonzero(inside)
    z[rows, here[rows]] -= amounts[rows]


def pick(x: Array, columns: Array, first: int) -> Array:
    here, inside = _here(columns, first, x.shape[1])
    if x.shape[1] == 0:
        return np.zeros(len(x), x.dtype)
    return np.where(inside, x[np.arange(len(x)), here], np.zeros((), x.dtype))


def softmax_minus_hot(z: Array, lse: Array, columns: Array, first: int, scale: Array) -> Array:
    out = np.subtract(z, lse[:, None])
    np.exp(out, out=out)
    here, inside = _here(columns, first, z.shape[1])
    rows = np.flatnonzero(inside)
    out[rows, here[rows]] -= 1
    out *= scale[:, None]
    return out


def _here(rows: Array, first: int, count: int) -> tuple[Array, Array]:
    """Local row numbers (0 where outside) and whether each is inside."""
    here = rows - first
    inside = (here >= 0) & (here < count)
    return np.where(inside, here, 0), inside
