"""Elements by integer indices: rows, and one index for each element. No dim is cut along which they select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mpipar.backend import Array, Backend
from mpipar.layout import Cut, Layout
from mpipar.layout.rules import Label, aligned
from mpipar.ops.base import Context, Vjps, op


def take_rule(x: Layout, index: Layout, *, dim: int) -> Layout:
    """The dim of x must be whole; the index may be cut where x is Replicate."""
    before: list[Label] = list(range(dim))
    after: list[Label] = list(range(dim + 1, x.ndim))
    free: list[Label] = [("index", k) for k in range(index.ndim)]
    return aligned([([*before, None, *after], x), (free, index)], [*before, *free, *after], "first")


@op(take_rule)
def take(context: Context, x: Array, index: Array, *, dim: int) -> tuple[Array, Vjps]:
    """(A…, N, B…) by (I…) along N → (A…, I…, B…)."""
    xp, length = context.xp, x.shape[dim]
    check_index(context, "take", index, length)
    front = (dim, *(other for other in range(x.ndim) if other != dim))
    rows = x.transpose(front)  # (N, A…, B…)
    inner, width = rows.shape[1:], prod(rows.shape[1:])
    order = _index_after(dim, index.ndim, x.ndim - 1)

    def vjp(g: Array) -> Array:
        g = g.transpose(_inverse(order)).reshape(*index.shape, width)
        return xp.put_rows(g, index, 0, length).reshape(length, *inner).transpose(_inverse(front))

    taken = xp.take_rows(rows.reshape(length, width), index, 0)
    return taken.reshape(*index.shape, *inner).transpose(order), (vjp, None)


def _index_after(dim: int, index: int, others: int) -> tuple[int, ...]:
    """The order that brings (I…, A…, B…) to (A…, I…, B…)."""
    before = range(index, index + dim)
    return (*before, *range(index), *range(index + dim, index + others))


def gather_rule(x: Layout, index: Layout, *, dim: int) -> Layout:
    """The dim of x must be whole, the others are cut alike."""
    _check_lines(x, index, dim)
    mine: list[Label] = [None if other == dim else other for other in range(x.ndim)]
    theirs: list[Label] = list(range(x.ndim))
    return aligned([(mine, x), (theirs, index)], theirs, "first")


@op(gather_rule)
def gather(context: Context, x: Array, index: Array, *, dim: int) -> tuple[Array, Vjps]:
    """y[i, j] = x[index[i, j], j] for dim 0, and so on."""
    check_index(context, "gather", index, x.shape[dim])
    lines = _lines(context, index, dim, x.shape[dim])
    before = x.shape
    return lines.taken(x, index.shape), (lambda g: lines.put(g, before), None)


def scatter_rule(source: Layout, index: Layout, *, dim: int, length: int) -> Layout:
    """Both cut alike; Partial where the dim is cut, for then every rank adds its own."""
    _check_lines(source, index, dim)
    if source.shape[dim] != index.shape[dim]:
        raise ValueError(f"one index for each element along dim {dim} is wanted")
    labels: list[Label] = list(range(source.ndim))
    kept = aligned([(labels, source), (labels, index)], [*labels[:dim], *labels[dim + 1 :]], "first")
    return Layout(kept.grid, (*kept.cuts[:dim], Cut((), (0, length)), *kept.cuts[dim:]), kept.partial)


@op(scatter_rule)
def scatter(context: Context, source: Array, index: Array, *, dim: int, length: int) -> tuple[Array, Vjps]:
    """The transpose of `gather`: zeros, and source[i, j] added at [index[i, j], j]."""
    check_index(context, "scatter", index, length)
    lines = _lines(context, index, dim, length)
    return lines.put(source, context.out_shape), (lambda g: lines.taken(g, index.shape), None)


@dataclass(frozen=True, slots=True)
class Lines:
    """Tensors as lines along one dim, one line after the other: an index on each is then a row of one column."""

    xp: Backend
    order: tuple[int, ...]  # brings the dim to the end
    rows: Array

    def taken(self, x: Array, shape: tuple[int, ...]) -> Array:
        """x at the indices; `shape` is that of the index."""
        return self._whole(self.xp.take_rows(self._flat(x), self.rows, 0), shape)

    def put(self, g: Array, shape: tuple[int, ...]) -> Array:
        """g summed at the indices into zeros of that shape."""
        return self._whole(self.xp.put_rows(self._flat(g), self.rows, 0, prod(shape)), shape)

    def _flat(self, x: Array) -> Array:
        return x.transpose(self.order).reshape(x.size, 1)

    def _whole(self, rows: Array, shape: tuple[int, ...]) -> Array:
        return rows.reshape(tuple(shape[dim] for dim in self.order)).transpose(_inverse(self.order))


def _lines(context: Context, index: Array, dim: int, length: int) -> Lines:
    """The lines of tensors that are `length` along the dim, and whose other dims are those of the index."""
    order = (*(other for other in range(index.ndim) if other != dim), dim)
    count = prod(index.shape[other] for other in order[:-1])
    starts = (context.xp.arange(0, count) * length).reshape(count, 1)
    return Lines(
        context.xp, order, (index.transpose(order).reshape(count, index.shape[dim]) + starts).reshape(-1)
    )


def _check_lines(x: Layout, index: Layout, dim: int) -> None:
    for other, (mine, theirs) in enumerate(zip(x.shape, index.shape, strict=True)):
        if other != dim and mine != theirs:
            raise ValueError(f"both must be alike in all dims but {dim}")


def check_index(context: Context, name: str, index: Array, length: int) -> None:
    """Raises IndexError where an index lies outside: one number that is copied to the host."""
    xp = context.xp
    if not index.size or not xp.item(xp.max((index < 0) | (index >= length))):
        return
    low, high = -xp.item(xp.max(-index)), xp.item(xp.max(index))
    raise IndexError(
        f"{name}: an index is {low if low < 0 else high}; 0 to {length - 1} are there, and none counts from the end"
    )


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))
