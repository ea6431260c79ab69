"""Reshape, permute, slice, concatenate: what they may do to a dim that is cut."""

from __future__ import annotations

from itertools import accumulate
from typing import TypeAlias

from mpipar.backend import Array
from mpipar.layout import Cut, Layout
from mpipar.layout.rules import aligned, permuted, repeated, reshaped, whole
from mpipar.ops.base import Context, Vjps, op

Key: TypeAlias = tuple[tuple[int, int, int] | int, ...]  # a start, stop, step or an index for each dim


def reshape_rule(x: Layout, *, shape: tuple[int, ...]) -> Layout:
    return reshaped(x, shape)


@op(reshape_rule)
def reshape(context: Context, x: Array, *, shape: tuple[int, ...]) -> tuple[Array, Vjps]:
    return x.reshape(context.out_shape), (lambda g: g.reshape(x.shape),)


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
    """A dim that is sliced must be whole; the others keep their cuts."""
    taken = [dim for dim, part in enumerate(key) if part != (0, x.shape[dim], 1)]
    base = whole(x, taken, linear=True)
    cuts = [
        base.cuts[dim] if dim not in taken else Cut((), (0, len(range(*part))))
        for dim, part in enumerate(key)
        if not isinstance(part, int)
    ]
    return Layout(x.grid, tuple(cuts), base.partial)


@op(slice_rule)
def slice_(context: Context, x: Array, *, key: Key) -> tuple[Array, Vjps]:
    layout = context.layouts[0]
    whole_dims = [part == (0, layout.shape[dim], 1) for dim, part in enumerate(key)]
    local = tuple(
        slice(None) if untouched else part if isinstance(part, int) else slice(*part)
        for part, untouched in zip(key, whole_dims, strict=True)
    )

    def vjp(g: Array) -> Array:
        out = context.xp.zeros(x.shape, g.dtype)
        out[local] = g
        return out

    return context.xp.as_array(x[local]), (vjp,)


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
