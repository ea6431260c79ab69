"""The kernels of networks as CuPy expressions: one launch an operation, none fused. Rows are (N, C).

Nothing is added by atomics, whose order changes from run to run: the same bits come out each time, on each rank.
"""

from __future__ import annotations

from math import pi, prod, sqrt
from typing import Any

import cupy as cp

from mpipar.backend.base import Array
from mpipar.backend.cupy.arrays import max
from mpipar.backend.dtypes import cast

SLOPE, CUBE = sqrt(2 / pi), 0.044715  # GELU's √(2/π) and its cubic term


def sigmoid(x: Array) -> Array:
    return (cp.tanh(x * 0.5) + 1) * 0.5  # no overflow on either side


def gelu(x: Array) -> Array:
    return (_gelu_tanh(x) + 1) * x * 0.5


def gelu_vjp(g: Array, x: Array) -> Array:
    """g · (½(1 + t) + ½x(1 - t²)·√(2/π)(1 + 3·0.044715x²)) with t = tanh(…)."""
    t = _gelu_tanh(x)
    slope = (1 - t * t) * x * (x * x * (3 * CUBE * SLOPE) + SLOPE)
    return (slope + t + 1) * 0.5 * g


def biased_gelu(x: Array, bias: Array) -> Array:
    return gelu(x + bias)


def biased_gelu_vjp_into(g: Array, x: Array, bias: Array) -> Array:
    g[...] = gelu_vjp(g, x + bias)
    return cp.sum(g, 0)


def bias_dropout_add(x: Array, bias: Array | None, mask: Array | None, residual: Array) -> Array:
    y = x if bias is None else x + bias
    return residual + (y if mask is None else y * mask)


def _gelu_tanh(x: Array) -> Array:
    return cp.tanh((x * x * (CUBE * SLOPE) + SLOPE) * x)


def softmax(x: Array, dim: int) -> Array:
    y = cp.exp(x - max(x, (dim,), keepdims=True))
    y /= cp.sum(y, dim, keepdims=True)
    return y


def softmax_vjp(g: Array, y: Array, dim: int) -> Array:
    out = g * y
    out -= y * cp.sum(out, dim, keepdims=True)
    return out


def layer_norm(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, Any]:
    mean = cp.mean(x, -1, keepdims=True)
    centred = x - mean
    scale = 1 / cp.sqrt(cp.mean(centred * centred, -1, keepdims=True) + eps)
    return centred * scale * gain + bias, (mean, scale)


def layer_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array, Array]:
    mean, scale = saved
    rows, hat, up = tuple(range(x.ndim - 1)), (x - mean) * scale, g * gain
    along = cp.mean(up * hat, -1, keepdims=True)
    out = (up - cp.mean(up, -1, keepdims=True) - hat * along) * scale
    return out, cp.sum(g * hat, rows), cp.sum(g, rows)


def rms_norm(x: Array, gain: Array, eps: float) -> tuple[Array, Any]:
    scale = 1 / cp.sqrt(cp.mean(x * x, -1, keepdims=True) + eps)
    return x * scale * gain, scale


def rms_norm_vjp(g: Array, x: Array, gain: Array, saved: Any) -> tuple[Array, Array]:
    rows, hat, up = tuple(range(x.ndim - 1)), x * saved, g * gain
    along = cp.mean(up * hat, -1, keepdims=True)
    return (up - hat * along) * saved, cp.sum(g * hat, rows)


def swiglu(x: Array) -> Array:
    gate = x[..., 0, :]
    return gate * sigmoid(gate) * x[..., 1, :]


def swiglu_vjp(g: Array, x: Array) -> Array:
    """(g·b·(s + silu(a)(1 - s)), g·silu(a)) with s = σ(a) and silu(a) = a·s."""
    gate, out = x[..., 0, :], cp.empty(x.shape, x.dtype)
    s = sigmoid(gate)
    silu = gate * s
    out[..., 0, :] = (s + silu * (1 - s)) * g * x[..., 1, :]
    out[..., 1, :] = g * silu
    return out


def rotary(x: Array, positions: Array, base: float) -> Array:
    half = x.shape[-1] // 2
    angles = positions[:, None, None] * cp.power(base, cp.arange(half) / -half)  # (T, 1, D/2) in float64
    cos, sin = cast(cp.cos(angles), x.dtype), cast(cp.sin(angles), x.dtype)
    left, right = x[..., :half], x[..., half:]
    return cp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


def take_rows(table: Array, rows: Array, first: int) -> Array:
    here, inside = _here(rows, first, len(table))
    if len(table) == 0:
        return cp.zeros((*rows.shape, *table.shape[1:]), table.dtype)
    return cp.where(inside.reshape(*rows.shape, *(1,) * (table.ndim - 1)), table[here], table.dtype.type(0))


def put_rows(g: Array, rows: Array, first: int, count: int) -> Array:
    """Rows sorted by number, then log₂(N) passes in which each adds the one 1, 2, 4 … before it if that bears the same.

    The last row of a number then has its sum. Its place is looked up, so nothing is written twice.
    """
    width, size = g.shape[rows.ndim :], rows.size
    if size == 0 or count == 0:
        return cp.zeros((count, *width), g.dtype)
    here, inside = _here(rows.reshape(-1), first, count)
    here = cp.where(inside, here, count)  # behind all others
    order = cp.argsort(here)  # stable: equal numbers keep their order
    number, total = here[order], g.reshape(size, prod(width))[order]
    step = 1
    while step < size:
        same = (number[step:] == number[:-step])[:, None]
        total[step:] += cp.where(same, total[:-step], g.dtype.type(0))
        step *= 2
    wanted = cp.arange(count)
    last = (
        cp.searchsorted(number, wanted, side="right") - 1
    )  # -1, the last of all, where there is none before
    found = (number[last] == wanted)[:, None]
    return cp.where(found, total[last], g.dtype.type(0)).reshape(count, *width)


def add_rows(out: Array, g: Array, rows: Array, first: int) -> None:
    out += put_rows(g, rows, first, len(out))


def exp_sum(z: Array, top: Array) -> Array:
    return cp.sum(cp.exp(z - top[:, None]), 1)


def exp_rows(z: Array) -> tuple[Array, Array]:
    top = max(z, (1,))
    z -= top[:, None]
    z[...] = cp.exp(z)
    return top, cp.sum(z, 1)


def subtract_at(z: Array, columns: Array, first: int, amounts: Array) -> None:
    here, inside = _here(columns, first, z.shape[1])
    if z.shape[1]:
        z[cp.arange(len(z)), here] -= cp.where(inside, amounts, amounts.dtype.type(0))


def pick(x: Array, columns: Array, first: int) -> Array:
    here, inside = _here(columns, first, x.shape[1])
    if x.shape[1] == 0:
        return cp.zeros(len(x), x.dtype)
    return cp.where(inside, x[cp.arange(len(x)), here], x.dtype.type(0))


def softmax_minus_hot(z: Array, lse: Array, columns: Array, first: int, scale: Array) -> Array:
    hot = (columns - first)[:, None] == cp.arange(z.shape[1])
    out = cp.exp(z - lse[:, None])
    out -= hot
    out *= scale[:, None]
    return out


def _here(rows: Array, first: int, count: int) -> tuple[Array, Array]:
    """Local row numbers (0 where outside) and whether each is inside."""
    here = rows - first
    inside = (here >= 0) & (here < count)
    return cp.where(inside, here, 0), inside
