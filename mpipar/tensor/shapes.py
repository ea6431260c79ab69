"""Other shapes, other orders, other dtypes of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from mpipar import ops
from mpipar.backend import DType
from mpipar.errors import GraphError
from mpipar.ops.base import normalized, normalized_dims
from mpipar.tensor import tape
from mpipar.tensor.apply import apply, recorded

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Number, Tensor


def reshape(x: Tensor, *shape: int) -> Tensor:
    """A cut survives where every offset falls on a row of the result. One length may be -1."""
    return apply(ops.reshape, x, shape=_completed(shape, x.shape))


def permute(x: Tensor, *order: int) -> Tensor:
    """The dims in another order."""
    dims = tuple(normalized(dim, x.ndim) for dim in order)
    if sorted(dims) != list(range(x.ndim)):
        raise ValueError(f"permute{order} of a tensor of {x.ndim} dims: name each dim once")
    return apply(ops.permute, x, order=dims)


def transpose(x: Tensor, i: int, j: int) -> Tensor:
    """Two dims exchanged."""
    order = list(range(x.ndim))
    i, j = normalized(i, x.ndim), normalized(j, x.ndim)
    order[i], order[j] = j, i
    return permute(x, *order)


def split(x: Tensor, sizes: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """Consecutive parts along a whole dim: of the given sizes, or of one size (the last may be shorter)."""
    dim = normalized(dim, x.ndim)
    length = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {list(sizes)} of a dim of {length}")
    parts, start = [], 0
    for size in sizes:
        parts.append(x[(*(slice(None),) * dim, slice(start, start + size))])
        start += size
    return parts


def squeeze(x: Tensor, dim: int) -> Tensor:
    """Without a dim of one row, which must be whole."""
    dim = normalized(dim, x.ndim)
    if x.shape[dim] != 1:
        raise ValueError(f"squeeze of dim {dim} of {x.layout}: it has {x.shape[dim]} rows, not one")
    return x[(*(slice(None),) * dim, 0)]


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new dim of one row, as ``x[:, None]`` does for dim 1."""
    dim = normalized(dim, x.ndim + 1)
    return x[(*(slice(None),) * dim, None)]


def flip(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """The rows of whole dims from the last to the first."""
    dims = normalized_dims(dim, x.ndim)
    return x[tuple(slice(None, None, -1 if other in dims else 1) for other in range(x.ndim))]


def pad(x: Tensor, widths: Sequence[tuple[int, int]], value: Number = 0.0) -> Tensor:
    """`value` before and after each dim, one pair a dim as in NumPy. A dim that is padded must be whole."""
    pairs = tuple(tuple(pair) if isinstance(pair, Sequence) else (pair,) for pair in widths)
    if len(pairs) != x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(
            f"pad({widths}) of {x.layout}: one pair (before, after) for each of its {x.ndim} dims, none below 0"
        )
    return apply(ops.pad, x, widths=pairs, value=value)


def expand(x: Tensor, *shape: int) -> Tensor:
    """Dims of one row repeated, and new dims in front, without a copy; -1 keeps a length."""
    extra = len(shape) - x.ndim
    kept = tuple(x.shape[dim - extra] if n == -1 and dim >= extra >= 0 else n for dim, n in enumerate(shape))
    return apply(ops.expand, x, shape=kept)


def astype(x: Tensor, dtype: DType) -> Tensor:
    """The same values in another dtype; gradients stay as wide as they are. Whole numbers have none."""
    xp, source = x.mesh.xp, x.mesh.xp.widen(x.local).dtype
    local = xp.cast(x.local, dtype)
    if x.requires_grad and tape.is_recording() and not xp.is_floating(local):
        raise GraphError(
            f"astype: {x.name or 'x'} {x.layout} requires a gradient and {local.dtype} has none. "
            f'Write  x.detach().astype("{local.dtype}")'
        )
    return recorded(x, local, x.layout, "astype", (x,), (lambda g: xp.cast(g, source),))


def _completed(shape: tuple[int, ...], old: tuple[int, ...]) -> tuple[int, ...]:
    """With -1 replaced. Raises ValueError where the number of elements differs."""
    count, known = prod(old), prod([length for length in shape if length != -1])
    if -1 not in shape and known == count:
        return shape
    if -1 not in shape or shape.count(-1) > 1 or (known and count % known):
        raise ValueError(f"reshape of {old} to {shape}: the numbers of elements differ")
    return tuple((count // known if known else 0) if length == -1 else length for length in shape)
