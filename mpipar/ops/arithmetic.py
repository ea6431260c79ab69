"""Sums and products of tensors and numbers, with NumPy's broadcasting."""

from __future__ import annotations

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.layout.rules import broadcast, whole
from mpipar.ops.base import Context, Vjps, op, unbroadcast


def sum_rule(*layouts: Layout) -> Layout:
    """All operands Partial on an axis, or none."""
    return broadcast(layouts, "all")


def product_rule(*layouts: Layout) -> Layout:
    """At most one operand Partial on an axis, and then so is the product."""
    return broadcast(layouts, "one")


def quotient_rule(*layouts: Layout) -> Layout:
    """Linear in the numerator only."""
    return broadcast(layouts, "first")


def linear_rule(x: Layout) -> Layout:
    """Any placement, kept: element by element and linear."""
    return x


def nonlinear_rule(x: Layout) -> Layout:
    """Any cut, nothing owed."""
    return whole(x, ())


@op(sum_rule)
def add(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    return context.xp.add(x, y), (lambda g: unbroadcast(context, 0, g), lambda g: unbroadcast(context, 1, g))


@op(sum_rule)
def subtract(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    return x - y, (lambda g: unbroadcast(context, 0, g), lambda g: unbroadcast(context, 1, -g))


@op(product_rule)
def multiply(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    return x * y, (lambda g: unbroadcast(context, 0, g * y), lambda g: unbroadcast(context, 1, g * x))


@op(quotient_rule)
def divide(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    return x / y, (
        lambda g: unbroadcast(context, 0, g / y),
        lambda g: unbroadcast(context, 1, -g * x / (y * y)),
    )


@op(linear_rule)
def negative(context: Context, x: Array) -> tuple[Array, Vjps]:
    return -x, (lambda g: -g,)


@op(linear_rule)
def scale(context: Context, x: Array, *, by: float) -> tuple[Array, Vjps]:
    return x * by, (lambda g: g * by,)


@op(nonlinear_rule)
def add_number(context: Context, x: Array, *, number: float) -> tuple[Array, Vjps]:
    """Not linear: on a Partial sum the number would be added once on each rank."""
    return x + number, (lambda g: g,)


@op(nonlinear_rule)
def reciprocal(context: Context, x: Array, *, number: float) -> tuple[Array, Vjps]:
    y = number / x
    return y, (lambda g: -g * y / x,)


@op(nonlinear_rule)
def power(context: Context, x: Array, *, exponent: float) -> tuple[Array, Vjps]:
    """x to a number."""
    return raised(x, exponent), (lambda g: g * _slope(x, exponent),)


def _slope(x: Array, exponent: float) -> Array:
    return exponent * raised(x, exponent - 1) if exponent else x * 0  # not 0 · x⁻¹, which is NaN at 0


def raised(x: Array, exponent: float) -> Array:
    """Small whole powers by multiplication: NumPy's pow is tens of times slower."""
    if exponent not in (1, 2, 3, 4):
        return x**exponent
    y = x * x if exponent > 1 else x * 1
    return y * (x if exponent == 3 else y) if exponent > 2 else y
