"""Sums, means, extremes and their like over dims."""

from __future__ import annotations

from math import prod

from mpipar.backend import Array, Backend
from mpipar.layout import Layout
from mpipar.layout.rules import summed, whole
from mpipar.ops.base import NO_GRADIENT, Context, Vjp, Vjps, op


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
    return _extreme(context, x, context.xp.max(x, dims, True), dims, keepdims)


@op(max_rule)
def min_(context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool) -> tuple[Array, Vjps]:
    """Elements that tie for the minimum share its gradient."""
    xp = context.xp
    return _extreme(context, x, reversed_(xp, xp.max(reversed_(xp, x), dims, True)), dims, keepdims)


def reversed_(xp: Backend, x: Array) -> Array:
    """The same numbers in the opposite order; ~ turns whole numbers and booleans round without overflow."""
    return -x if xp.is_floating(x) else ~x


def _extreme(
    context: Context, x: Array, top: Array, dims: tuple[int, ...], keepdims: bool
) -> tuple[Array, Vjps]:
    xp, kept = context.xp, top.shape

    def vjp(g: Array) -> Array:
        ties = xp.cast(x == top, x.dtype)
        return ties * (xp.as_array(g).reshape(kept) / xp.sum(ties, dims, True))

    return (top if keepdims else top.reshape(context.out_shape)), (vjp,)


def place_rule(x: Layout, *, dim: int) -> Layout:
    """The dim must be whole, and hold something."""
    if x.shape[dim] == 0:
        raise ValueError(f"dim {dim} is empty: nothing in it is the largest or the smallest")
    return max_rule(x, dims=(dim,), keepdims=False)


@op(place_rule)
def argmax(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    """The index of the first of the largest."""
    return context.xp.argmax(x, dim), NO_GRADIENT


@op(place_rule)
def argmin(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    """The index of the first of the smallest."""
    return context.xp.argmax(reversed_(context.xp, x), dim), NO_GRADIENT


@op(max_rule)
def var(
    context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool, correction: float
) -> tuple[Array, Vjps]:
    """Σ (x - mean)² / (n - correction)."""
    xp, n = context.xp, prod(x.shape[dim] for dim in dims)
    apart = x - xp.sum(x, dims, True) / max(1, n)
    factor = 1 / (n - correction) if n > correction else float("nan")
    total = xp.sum(apart * apart, dims, True) * factor
    vjp = spread_back(context, x.shape, dims, 2 * factor)
    return (total if keepdims else total.reshape(context.out_shape)), (lambda g: vjp(g) * apart,)


@op(max_rule)
def logsumexp(context: Context, x: Array, *, dims: tuple[int, ...], keepdims: bool) -> tuple[Array, Vjps]:
    """log Σ exp(x), about the maximum so that nothing overflows; its gradient is the softmax."""
    xp = context.xp
    lse = _log_sum_exp(xp, x, dims)
    vjp = spread_back(context, x.shape, dims, 1)
    return (lse if keepdims else lse.reshape(context.out_shape)), (lambda g: vjp(g) * xp.exp(x - lse),)


def log_softmax_rule(x: Layout, *, dim: int) -> Layout:
    return whole(x, [dim])


@op(log_softmax_rule)
def log_softmax(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    """x - log Σ exp(x), where x is counted from its maximum: the difference loses no digits."""
    xp = context.xp
    shifted = x - _finite_top(xp, x, (dim,))
    y = shifted - xp.log(xp.sum(xp.exp(shifted), (dim,), True))
    return y, (lambda g: g - xp.exp(y) * xp.sum(g, (dim,), True),)


def _log_sum_exp(xp: Backend, x: Array, dims: tuple[int, ...]) -> Array:
    top = _finite_top(xp, x, dims)
    return xp.log(xp.sum(xp.exp(x - top), dims, True)) + top


def _finite_top(xp: Backend, x: Array, dims: tuple[int, ...]) -> Array:
    """The maximum, 0 where that is infinite: ∞ - ∞ is no number."""
    top = xp.max(x, dims, True)
    return xp.where(xp.absolute(top) < float("inf"), top, 0)


def cumsum_rule(x: Layout, *, dim: int) -> Layout:
    """The dim must be whole; linear."""
    return whole(x, [dim], linear=True)


@op(cumsum_rule)
def cumsum(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    """Sums of the elements up to each; the gradient is summed from the end."""
    back = (slice(None),) * dim + (slice(None, None, -1),)
    return context.xp.cumsum(x, dim), (lambda g: context.xp.cumsum(g[back], dim)[back],)
