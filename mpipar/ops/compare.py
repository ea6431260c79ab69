"""Comparisons, logic and choices, element by element. What they say of the numbers has no gradient."""

from __future__ import annotations

import operator
from collections.abc import Callable

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.layout.rules import broadcast
from mpipar.ops.arithmetic import nonlinear_rule
from mpipar.ops.base import NO_GRADIENT, Context, Op, Vjps, op, unbroadcast


def relation_rule(*layouts: Layout) -> Layout:
    """The same cuts, nothing owed: the terms of two sums say nothing of the sums."""
    return broadcast(layouts, "none")


def choice_rule(condition: Layout, x: Layout, y: Layout) -> Layout:
    """Linear in what is chosen from."""
    return broadcast([condition, x, y], "others")


def relation(name: str, holds: Callable[[Array, Array], Array]) -> Op:
    """Whether it holds between two tensors."""

    def forward(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
        return holds(x, y), NO_GRADIENT

    forward.__name__ = name
    return op(relation_rule)(forward)


def relation_to_number(name: str, holds: Callable[[Array, Array], Array]) -> Op:
    """Whether it holds between a tensor and a number."""

    def forward(context: Context, x: Array, *, number: float) -> tuple[Array, Vjps]:
        return holds(x, number), NO_GRADIENT

    forward.__name__ = name
    return op(nonlinear_rule)(forward)


less, less_than_number = relation("less", operator.lt), relation_to_number("less than a number", operator.lt)
less_equal, at_most_number = (
    relation("less_equal", operator.le),
    relation_to_number("at most a number", operator.le),
)
equal, equal_to_number = relation("equal", operator.eq), relation_to_number("equal to a number", operator.eq)
not_equal, other_than_number = (
    relation("not_equal", operator.ne),
    relation_to_number("other than a number", operator.ne),
)
greater_than_number = relation_to_number("greater than a number", operator.gt)
at_least_number = relation_to_number("at least a number", operator.ge)
logical_and, logical_or = relation("logical_and", operator.and_), relation("logical_or", operator.or_)
logical_xor = relation("logical_xor", operator.xor)


@op(nonlinear_rule)
def logical_not(context: Context, x: Array) -> tuple[Array, Vjps]:
    return ~x, NO_GRADIENT


@op(nonlinear_rule)
def isnan(context: Context, x: Array) -> tuple[Array, Vjps]:
    return x != x, NO_GRADIENT  # noqa: PLR0124  (NaN alone differs from itself)


@op(nonlinear_rule)
def isfinite(context: Context, x: Array) -> tuple[Array, Vjps]:
    return context.xp.absolute(x) < float("inf"), NO_GRADIENT


@op(choice_rule)
def where(context: Context, condition: Array, x: Array, y: Array) -> tuple[Array, Vjps]:
    """x where the condition holds, y elsewhere."""
    where = context.xp.where
    return where(condition, x, y), (
        None,
        lambda g: unbroadcast(context, 1, where(condition, g, 0)),
        lambda g: unbroadcast(context, 2, where(condition, 0, g)),
    )


@op(relation_rule)
def maximum(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    """Where both are equal each has half of the gradient."""
    return context.xp.maximum(x, y), _shared(context, x, y, operator.gt)


@op(relation_rule)
def minimum(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    """Where both are equal each has half of the gradient."""
    return context.xp.minimum(x, y), _shared(context, x, y, operator.lt)


def _shared(context: Context, x: Array, y: Array, wins: Callable[[Array, Array], Array]) -> Vjps:
    return (
        lambda g: unbroadcast(context, 0, g * wins(x, y) + g * (x == y) * 0.5),
        lambda g: unbroadcast(context, 1, g * wins(y, x) + g * (x == y) * 0.5),
    )


@op(nonlinear_rule)
def clip(context: Context, x: Array, *, low: float | None, high: float | None) -> tuple[Array, Vjps]:
    """The gradient passes where x lies between the bounds or on one of them."""
    xp = context.xp
    y = x if low is None else xp.maximum(x, low)
    y = y if high is None else xp.minimum(y, high)
    return y, (lambda g: g * (x == y),)
