"""Sums, means and maxima over dims."""

from __future__ import annotations

from math import prod

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.layout.rules import summed, whole
from mpipar.ops.base import Context, Vjp, Vjps, op


def sum_rule(x: Layout, *, dims: tuple[int, ...], keepdims: bool) -> Layout:
    return summed(x, dims, keepdims)


def max_rule(x: Layout, *, dims: tuple[int, ...], keepdims: bool) -> Layout:
    """The dims must be whole: a maximum of maxima is not a sum."""
    return summed(whole(x, dims), dims, keepdims)


def spread_back(context: Context, shape: tuple[int, ...], dims: tuple[int, ...], factor: float) -> Vjp:
    """The vjp of a sum times `factor`: the gradient repeated over the dims."""
    kept = tuple(1 if dim in dims else length for dim, length in enumerate(shape))

    def vjp(g: Array) -> Array:
        g = g if factor == 1 else g * factor
        return context.xp.broadcast_to(context.xp.as_array(g).reshape(kept), shape)

    return vjp


@op(sum_rule)
def sum_(context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool) -> tuple[Array, Vjps]:
    """Partial on the axes that cut a summed dim."""
    return context.xp.sum(x, dims, keepdims), (spread_back(context, x.shape, dims, 1),)


@op(sum_rule)
def mean(context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool) -> tuple[Array, Vjps]:
    """The sum over the dims, divided by their global size."""
    factor = 1 / max(1, prod(context.layouts[0].shape[dim] for dim in dims))
    return context.xp.sum(x, dims, keepdims) * factor, (spread_back(context, x.shape, dims, factor),)


@op(max_rule)
def max_(context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool) -> tuple[Array, Vjps]:
    """Elements that tie for the maximum share its gradient."""
    xp = context.xp
    top = xp.max(x, dims, True)
    kept = tuple(1 if dim in dims else length for dim, length in enumerate(x.shape))

    def vjp(g: Array) -> Array:
        ties = xp.cast(x == top, x.dtype)
        return ties * (xp.as_array(g).reshape(kept) / xp.sum(ties, dims, True))

    return (top if keepdims else top.reshape(context.out_shape)), (vjp,)
