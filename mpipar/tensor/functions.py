"""Operations of several tensors, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from mpipar import ops
from mpipar.ops.base import normalized
from mpipar.random import Noise, key
from mpipar.tensor.apply import apply
from mpipar.tensor.tensor import Tensor


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along a dim that is whole in all of them."""
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


def dropout(x: Tensor, p: float, noise: Noise, name: str) -> Tensor:
    """Zeroes elements with probability p and divides the others by 1 - p. Srivastava et al. 2014.

    The mask is a function of (noise.seed, noise.step, name, global index): the same on every mesh.
    """
    bits = key(noise.seed, "dropout", name, noise.step)
    return apply(ops.dropout, x, key=bits, p=p, first_row=noise.first_row)
