"""Operations of several tensors, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from mpipar import ops
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Replicate
from mpipar.layout.layout import Fix
from mpipar.ops.base import normalized
from mpipar.ops.einsum import parsed
from mpipar.random import Noise, key
from mpipar.tensor.advice import advice
from mpipar.tensor.apply import apply
from mpipar.tensor.operators import number
from mpipar.tensor.tensor import Number, Tensor


def where(condition: Tensor, x: Tensor | Number, y: Tensor | Number) -> Tensor:
    """x where the boolean condition holds, y elsewhere; they broadcast. Linear in x and y; one may be a number.

    >>> from mpipar import Mesh, arange
    >>> x = arange(4, Mesh(ranks=[0]))
    >>> where(x > 1, x, -1).numpy().tolist()
    [-1, -1, 2, 3]
    """
    if not isinstance(condition, Tensor) or str(condition.dtype) != "bool":
        raise TypeError("where: the condition is a boolean Tensor: write  where(x > 0, x, y)")
    like = next((z for z in (x, y) if isinstance(z, Tensor)), None)
    if like is None:
        raise TypeError(
            "where: two numbers have no dtype: write  mp.full((), x, mesh, dtype=…)  for one of them"
        )
    chosen = [z if isinstance(z, Tensor) else _constant(z, like) for z in (x, y)]
    return apply(ops.where, condition, *chosen)


def _constant(value: Any, like: Tensor) -> Tensor:
    """A number as a Tensor. 0 is a term of every sum, so it is Partial where `like` is; no other number is."""
    value = number(value)
    if isinstance(value, float) and not like.is_floating:
        raise TypeError(f'where: {value} in a tensor of {like.dtype}: write  x.astype("float32")')
    if value and like.layout.partial:
        axis, known = min(like.layout.partial), like.name or "x"
        raise PlacementError(
            f"where: {known!r} {like.layout}\n"
            f"  it is Partial on axis {axis!r}, and {value} would be added once on each rank.\n"
            f"  Write  {advice(like, known, Fix(0, axis, Replicate()))}"
        )
    layout = Layout(like.mesh.grid, (), like.layout.partial)
    return Tensor(like.mesh.xp.full((), value, like.dtype), like.mesh, layout)


def maximum(x: Tensor, y: Tensor | Number) -> Tensor:
    """The larger of two, element by element; where both are equal each has half of the gradient."""
    return apply(ops.maximum, x, y) if isinstance(y, Tensor) else x.clip(low=y)


def minimum(x: Tensor, y: Tensor | Number) -> Tensor:
    """The smaller of two, element by element; where both are equal each has half of the gradient."""
    return apply(ops.minimum, x, y) if isinstance(y, Tensor) else x.clip(high=y)


def einsum(equation: str, *tensors: Tensor) -> Tensor:
    """A product by labels, one letter a dim, of one or two tensors: ``einsum("btc,cf->btf", x, w)``.

    Labels that the result lacks are summed: Partial on the axes that cut them. The result is always written, a
    label comes once in a tensor.
    """
    found = parsed(equation)
    if len(found.operands) != len(tensors) or len(tensors) > 2:
        raise ValueError(
            f"einsum {equation!r} of {len(tensors)} tensors: one or two are wanted, each with its labels; "
            "write a longer product as one einsum in another"
        )
    return apply(ops.einsum, *tensors, equation=found)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along a new dim."""
    _check_list("stack", tensors)
    if len({x.shape for x in tensors}) > 1:
        raise ValueError(f"stack: shapes {[x.shape for x in tensors]} differ")
    dim = normalized(dim, tensors[0].ndim + 1)
    return apply(ops.stack, *tensors, dim=dim)


def _check_list(name: str, tensors: Any) -> None:
    if isinstance(tensors, Tensor) or not len(tensors) or not all(isinstance(x, Tensor) for x in tensors):
        raise TypeError(f"{name}: a list of Tensors, at least one, is wanted: write  {name}([x, y], dim)")


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along a dim that is whole in all of them."""
    _check_list("concatenate", tensors)
    dim = normalized(dim, tensors[0].ndim)
    shapes = {(*x.shape[:dim], *x.shape[dim + 1 :]) for x in tensors}
    if len(shapes) > 1:
        raise ValueError(f"concatenate along dim {dim}: shapes {[x.shape for x in tensors]} differ elsewhere")
    return apply(ops.concatenate, *tensors, dim=dim)


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a (V, C) table by ids (…): (…, C); Partial on the axes that cut the vocabulary.

    An id outside 0 … V - 1 gives a zero row.
    """
    if ids.is_floating:
        raise TypeError(f"embedding: ids {ids.layout} are {ids.dtype}; integers are wanted")
    return apply(ops.embedding, table, ids)


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / √(variance + eps) · gain + bias over the last dim, which must be whole."""
    return apply(ops.layer_norm, x, gain, bias, eps=eps)


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    """x / √(mean of x² + eps) · gain over the last dim, which must be whole. Zhang & Sennrich 2019, eq. 4."""
    return apply(ops.rms_norm, x, gain, eps=eps)


def rotary(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions of queries or keys (…, T, H, D), D even and whole: (…, T, H, D). Su et al. 2021, eq. 34.

    Row t of the whole of T is turned by angles t · base^(-2i/D) in the planes (i, i + D/2), so that the product of a
    query and a key depends on their distance alone. T may be cut.
    """
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"rotary: {x.layout}: (…, positions, heads, channels), channels even, is wanted")
    return apply(ops.rotary, x, base=base)


def swiglu(x: Tensor) -> Tensor:
    """silu(a)·b of a = x[…, 0, :] and b = x[…, 1, :], silu(a) = a·σ(a): (…, 2, F) → (…, F). Shazeer 2020, eq. 6.

    F may be cut: gate and value are cut alike.
    """
    if x.ndim < 2 or x.shape[-2] != 2:
        raise ValueError(f"swiglu: {x.layout}: (…, 2, hidden) is wanted")
    return apply(ops.swiglu, x)


def repeat_interleave(x: Tensor, n: int, dim: int) -> Tensor:
    """Each row of a dim n times in a row: (a, b) → (a, a, b, b). A dim that is cut stays so, pieces n times as long."""
    if n < 1:
        raise ValueError(f"repeat_interleave: {n} times; at least 1 is wanted")
    return apply(ops.repeat_interleave, x, dim=normalized(dim, x.ndim), n=n)


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None) -> Tensor:
    """softmax(scale·qkᵀ)v for q (B, T, H, D) and k, v (B, S, K, D); scale 1/√D. Vaswani et al. 2017, eq. 1.

    K divides H: with fewer heads each serves H/K consecutive ones of q (Ainslie et al. 2023). Under `causal` the last
    query sees all S keys, the one before it one less, and so on.
    """
    if k.shape[2] != v.shape[2] or q.shape[2] % max(1, k.shape[2]):
        raise ValueError(
            f"attention: {q.shape[2]} heads of q, {k.shape[2]} of k, {v.shape[2]} of v: those of k and v must be as "
            "many as each other and divide those of q"
        )
    if causal and k.shape[1] < q.shape[1]:
        raise ValueError(f"attention: {q.shape[1]} causal queries and only {k.shape[1]} keys")
    return apply(
        ops.attention, q, k, v, scale=1 / sqrt(q.shape[-1]) if scale is None else scale, causal=causal
    )


def self_attention(qkv: Tensor, *, causal: bool, scale: float | None = None) -> Tensor:
    """`attention` of queries, keys and values that are side by side: (B, T, 3, H, D) → (B, T, H, D).

    Faster than of three slices: their gradients need not be put together again.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"self_attention: {qkv.layout}; (B, T, 3, H, D) is wanted")
    return apply(
        ops.self_attention, qkv, scale=1 / sqrt(qkv.shape[-1]) if scale is None else scale, causal=causal
    )


def biased_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias), in one pass over memory: (…, F), (F,) → (…, F). F may be cut."""
    if bias.ndim != 1 or bias.shape != x.shape[-1:]:
        raise ValueError(f"biased_gelu: {x.layout} and a bias {bias.layout}; (…, F) and (F,) are wanted")
    return apply(ops.biased_gelu, x, bias)


def feed_forward(x: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    """gelu(x·up + bias)·down: (…, C), (C, F), (F,), (F, D) → (…, D). Partial where F is cut.

    What ``biased_gelu(x.contract(up), bias).contract(down)`` gives, bit for bit, with less on the tape.
    """
    wanted = (up.ndim, down.ndim) == (2, 2) and (x.shape[-1:], bias.shape) == (up.shape[:1], up.shape[1:])
    if not wanted or bias.shape != down.shape[:1]:
        raise ValueError(
            f"feed_forward: {x.layout}, {up.layout}, {bias.layout}, {down.layout}: "
            "(…, C), (C, F), (F,), (F, D) are wanted"
        )
    return apply(ops.feed_forward, x, up, bias, down)


def dropout(x: Tensor, p: float, noise: Noise, name: str) -> Tensor:
    """Zeroes elements with probability p and divides the others by 1 - p. Srivastava et al. 2014.

    The mask is a function of (noise.seed, noise.step, name, global index): the same on every mesh.
    """
    bits = key(noise.seed, "dropout", name, noise.step)
    return apply(ops.dropout, x, key=bits, p=p, first_row=noise.first_row)


def bias_dropout_add(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    p: float = 0.0,
    noise: Noise | None = None,
    name: str = "",
) -> Tensor:
    """residual + dropout(x + bias, p, noise, name), in one pass over memory: (…, C), (C,), (…, C) → (…, C).

    The end of both halves of a transformer block. Any cut; nothing may be owed.
    """
    if x.shape != residual.shape or (bias is not None and bias.shape != x.shape[-1:]):
        with_bias = "no bias" if bias is None else f"a bias {bias.layout}"
        raise ValueError(
            f"bias_dropout_add: {x.layout}, {with_bias} and a residual {residual.layout}; "
            "(…, C), (C,) and (…, C) are wanted"
        )
    if p and noise is None:
        raise TypeError(f"bias_dropout_add: p={p} wants a noise: pass noise=Noise(seed, step) and a name")
    drawn = {"key": 0, "first_row": 0}
    if noise is not None:
        drawn = {"key": key(noise.seed, "dropout", name, noise.step), "first_row": noise.first_row}
    operands = (x, residual) if bias is None else (x, residual, bias)
    return apply(ops.bias_dropout_add, *operands, p=p, **drawn)
