"""What ``x[…]`` understands: integers, slices, None, an ellipsis, and one Tensor of indices; and gather and scatter."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any, NoReturn

from mpipar import ops
from mpipar.errors import PlacementError
from mpipar.layout import Partial
from mpipar.layout.layout import Fix
from mpipar.ops.base import normalized
from mpipar.ops.shape import Key
from mpipar.tensor.advice import advice
from mpipar.tensor.apply import apply

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor


def getitem(x: Tensor, key: Any) -> Tensor:
    """Slices, indices and new dims; a Tensor of integers takes rows. A dim that is cut may only be taken whole."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, type(x)) for part in parts):
        return _taken(x, _completed(parts, x.ndim))
    return apply(ops.slice_, x, key=parsed_key(key, x.shape))


def setitem(x: Tensor, key: Any, value: Any) -> NoReturn:
    raise TypeError(
        "a Tensor is not assigned to in part: write  x = mp.where(mask, value, x),  or x.copy_(y) for all of it"
    )


def _taken(x: Tensor, parts: list[Any]) -> Tensor:
    """x[:, ids]: one Tensor among full slices."""
    dims = [dim for dim, part in enumerate(parts) if isinstance(part, type(x))]
    others = [part for part in parts if not isinstance(part, type(x))]
    if len(dims) > 1 or any(not isinstance(part, slice) or part != slice(None) for part in others):
        raise IndexError(
            "x[…]: beside one Tensor of indices only : may stand; write x[1:][:, ids], one after the other"
        )
    return apply(ops.take, x, integers("x[…]", parts[dims[0]]), dim=dims[0])


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """y[i, j] = x[index[i, j], j] for dim 0, and so on. The dim must be whole in x, the others are alike in both.

    Raises IndexError where an index is not one of 0 … n - 1. Linear in x; no gradient for the index.
    """
    _check_ndim("gather", x, index)
    return apply(ops.gather, x, integers("gather", index), dim=normalized(dim, x.ndim))


def scatter_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x with source[i, j] added at [index[i, j], j] for dim 0, and so on: the transpose of `gather`; a new Tensor.

    Where the dim of the source is cut what is added is Partial, and so must x be.
    """
    _check_ndim("scatter_add", x, index)
    _check_ndim("scatter_add", x, source)
    dim = normalized(dim, x.ndim)
    added = apply(ops.scatter, source, integers("scatter_add", index), dim=dim, length=x.shape[dim])
    for axis in sorted(added.layout.partial - x.layout.partial):
        known = x.name or "x"
        raise PlacementError(
            f"scatter_add: {known!r} {x.layout}\n"
            f"  what is added is Partial on axis {axis!r}, {known!r} is not: it would be added once on each rank.\n"
            f"  Write  {advice(x, known, Fix(0, axis, Partial()))}"
        )
    return x + added


def integers(name: str, index: Tensor) -> Tensor:
    """The index itself. Raises TypeError where it is none."""
    if str(index.dtype) == "bool":
        raise TypeError(
            f"{name}: a mask takes another number of elements on each rank; write  mp.where(mask, x, 0),  or mask * x"
        )
    if index.is_floating:
        raise TypeError(f"{name}: an index {index.layout} is {index.dtype}; integers are wanted")
    return index


def _check_ndim(name: str, x: Tensor, other: Tensor) -> None:
    if x.ndim != other.ndim or not x.ndim:
        raise ValueError(
            f"{name}: {x.layout} with {other.layout}: as many dims, and at least one, are wanted"
        )


def parsed_key(key: Any, shape: tuple[int, ...]) -> Key:
    """A start, stop and step, or an index, for each dim; None for a new one."""
    parts = _completed(key if isinstance(key, tuple) else (key,), len(shape))
    lengths = iter(shape)
    return tuple(None if part is None else _parsed(part, next(lengths)) for part in parts)


def _completed(given: tuple[Any, ...], ndim: int) -> list[Any]:
    """With full slices in place of the ellipsis."""
    parts = list(given)
    ellipses = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("x[…]: one ellipsis at most")
    if not ellipses:
        ellipses, parts = [len(parts)], [*parts, Ellipsis]
    named = sum(part is not None for part in parts) - 1
    if named > ndim:
        raise IndexError(f"x[…]: {named} indices for {ndim} dims")
    place = ellipses[0]
    return [*parts[:place], *[slice(None)] * (ndim - named), *parts[place + 1 :]]


def _parsed(part: Any, length: int) -> tuple[int, int, int] | int:
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        return (start, max(start, stop), step) if step > 0 else (start, min(start, stop), step)
    if isinstance(part, bool) or not isinstance(part, Integral):
        raise TypeError(
            f"x[…]: {type(part).__name__} is no index; write integers and slices, or a Tensor of integers"
        )
    index = int(part)  # NumPy's too
    if not -length <= index < length:
        raise IndexError(f"x[{index}] of a dim of {length}")
    return index % length
