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


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None) -> Tensor:
    """softmax(scale·qkᵀ)v for (B, T, H, D) and (B, S, H, D); scale 1/√D. Vaswani et al. 2017, eq. 1.

    Under `causal` the last query sees all S keys, the one before it one less, and so on.
    """
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
