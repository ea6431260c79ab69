"""Reshape, permute, slice, concatenate, stack, pad, expand: what they may do to a dim that is cut."""

from __future__ import annotations

from itertools import accumulate
from typing import TypeAlias

from mpipar.backend import Array
from mpipar.layout import Cut, Layout
from mpipar.layout.rules import aligned, broadcast, permuted, repeated, reshaped, whole
from mpipar.ops.base import Context, Vjps, op, unbroadcast

# a start, stop and step (as range takes them) or an index for each dim; None: a new dim
Key: TypeAlias = tuple[tuple[int, int, int] | int | None, ...]


def reshape_rule(x: Layout, *, shape: tuple[int, ...]) -> Layout:
    return reshaped(x, shape)


@op(reshape_rule)
def reshape(context: Context, x: Array, *, shape: tuple[int, ...]) -> tuple[Array, Vjps]:
    before = x.shape
    return x.reshape(context.out_shape), (lambda g: g.reshape(before),)


def permute_rule(x: Layout, *, order: tuple[int, ...]) -> Layout:
    return permuted(x, order)


@op(permute_rule)
def permute(context: Context, x: Array, *, order: tuple[int, ...]) -> tuple[Array, Vjps]:
    back = tuple(sorted(range(len(order)), key=order.__getitem__))
    return x.transpose(order), (lambda g: g.transpose(back),)


def repeat_interleave_rule(x: Layout, *, dim: int, n: int) -> Layout:
    return repeated(x, dim, n)


@op(repeat_interleave_rule)
def repeat_interleave(context: Context, x: Array, *, dim: int, n: int) -> tuple[Array, Vjps]:
    before, after = x.shape[: dim + 1], x.shape[dim + 1 :]
    wide = context.xp.broadcast_to(x.reshape(*before, 1, *after), (*before, n, *after))

    def vjp(g: Array) -> Array:
        return context.xp.sum(g.reshape(*before, n, *after), (dim + 1,))

    return wide.reshape(context.out_shape), (vjp,)


def slice_rule(x: Layout, *, key: Key) -> Layout:
    """A dim that is sliced must be whole; the others keep their cuts. None is a new dim of one row."""
    parts = [part for part in key if part is not None]
    taken = [dim for dim, part in enumerate(parts) if part != (0, x.shape[dim], 1)]
    base = whole(x, taken, linear=True)
    cuts, dims = [], iter(range(x.ndim))
    for part in key:
        if part is None:
            cuts.append(Cut((), (0, 1)))
            continue
        dim = next(dims)
        if not isinstance(part, int):
            cuts.append(base.cuts[dim] if dim not in taken else Cut((), (0, len(range(*part)))))
    return Layout(x.grid, tuple(cuts), base.partial)


@op(slice_rule)
def slice_(context: Context, x: Array, *, key: Key) -> tuple[Array, Vjps]:
    shape = context.layouts[0].shape
    parts = enumerate(part for part in key if part is not None)
    local = tuple(_local(part, shape[dim]) for dim, part in parts)
    y = context.xp.as_array(x[local])
    before, sliced = x.shape, y.shape  # and not x, which a vjp would keep

    def vjp(g: Array) -> Array:
        out = context.xp.zeros(before, g.dtype)
        out[local] = g.reshape(sliced)
        return out

    return (y.reshape(context.out_shape) if None in key else y), (vjp,)


def _local(part: tuple[int, int, int] | int, length: int) -> slice | int:
    """What to take of my piece: all of it where the dim is taken as it is, for it may be cut."""
    if isinstance(part, int):
        return part
    start, stop, step = part
    return slice(None) if part == (0, length, 1) else slice(start, None if stop < 0 else stop, step)


def concatenate_rule(*layouts: Layout, dim: int) -> Layout:
    """The joined dim must be whole in all of them, the others cut alike."""
    labels = [None if other == dim else other for other in range(layouts[0].ndim)]
    kept = aligned([(labels, x) for x in layouts], [label for label in labels if label is not None], "all")
    joined = Cut((), (0, sum(x.shape[dim] for x in layouts)))
    return Layout(kept.grid, (*kept.cuts[:dim], joined, *kept.cuts[dim:]), kept.partial)


@op(concatenate_rule)
def concatenate(context: Context, *xs: Array, dim: int) -> tuple[Array, Vjps]:
    starts = list(accumulate((x.shape[dim] for x in xs), initial=0))
    before = (slice(None),) * dim

    def part(k: int) -> slice:
        return slice(starts[k], starts[k + 1])

    vjps = tuple((lambda g, k=k: g[(*before, part(k))]) for k in range(len(xs)))
    return context.xp.concatenate(xs, dim), vjps


def stack_rule(*layouts: Layout, dim: int) -> Layout:
    """All cut alike; the new dim is whole."""
    kept = broadcast(layouts, "all")
    joined = Cut((), (0, len(layouts)))
    return Layout(kept.grid, (*kept.cuts[:dim], joined, *kept.cuts[dim:]), kept.partial)


@op(stack_rule)
def stack(context: Context, *xs: Array, dim: int) -> tuple[Array, Vjps]:
    before = (slice(None),) * dim
    wide = [x.reshape(*x.shape[:dim], 1, *x.shape[dim:]) for x in xs]
    vjps = tuple((lambda g, k=k: g[(*before, k)]) for k in range(len(xs)))
    return context.xp.concatenate(wide, dim), vjps


def pad_rule(x: Layout, *, widths: tuple[tuple[int, int], ...], value: float) -> Layout:
    """A dim that is padded must be whole; linear where the padding is 0."""
    padded = [dim for dim, width in enumerate(widths) if width != (0, 0)]
    base = whole(x, padded, linear=value == 0)
    for dim in padded:
        base = base.with_cut(dim, Cut((), (0, x.shape[dim] + sum(widths[dim]))))
    return base


@op(pad_rule)
def pad(
    context: Context, x: Array, *, widths: tuple[tuple[int, int], ...], value: float
) -> tuple[Array, Vjps]:
    y = context.xp.full(context.out_shape, value, x.dtype)
    inner = tuple(slice(before, before + length) for (before, _), length in zip(widths, x.shape, strict=True))
    y[inner] = x
    return y, (lambda g: g[inner],)


def expand_rule(x: Layout, *, shape: tuple[int, ...]) -> Layout:
    """New dims in front, and dims of one row that are repeated; these must be whole."""
    extra = len(shape) - x.ndim
    if extra < 0 or any(length not in (1, wide) for length, wide in zip(x.shape, shape[extra:], strict=True)):
        raise ValueError(f"it does not expand to {shape}: only new dims in front and dims of one row do")
    repeated = [dim for dim, length in enumerate(x.shape) if length != shape[dim + extra]]
    base = whole(x, repeated, linear=True)
    for dim in repeated:
        base = base.with_cut(dim, Cut((), (0, shape[dim + extra])))
    return Layout(x.grid, (*(Cut((), (0, length)) for length in shape[:extra]), *base.cuts), base.partial)


@op(expand_rule)
def expand(context: Context, x: Array, *, shape: tuple[int, ...]) -> tuple[Array, Vjps]:
    """Repeated without a copy."""
    return context.xp.broadcast_to(x, context.out_shape), (lambda g: unbroadcast(context, 0, g),)
