"""Nonlinear functions, element by element."""

from __future__ import annotations

from mpipar.backend import Array
from mpipar.ops.arithmetic import linear_rule, nonlinear_rule
from mpipar.ops.base import Context, Vjps, op


@op(nonlinear_rule)
def exp(context: Context, x: Array) -> tuple[Array, Vjps]:
    y = context.xp.exp(x)
    return y, (lambda g: g * y,)


@op(nonlinear_rule)
def log(context: Context, x: Array) -> tuple[Array, Vjps]:
    return context.xp.log(x), (lambda g: g / x,)


@op(nonlinear_rule)
def sqrt(context: Context, x: Array) -> tuple[Array, Vjps]:
    y = context.xp.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@op(nonlinear_rule)
def square(context: Context, x: Array) -> tuple[Array, Vjps]:
    return x * x, (lambda g: g * (2 * x),)


@op(nonlinear_rule)
def tanh(context: Context, x: Array) -> tuple[Array, Vjps]:
    y = context.xp.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@op(nonlinear_rule)
def sigmoid(context: Context, x: Array) -> tuple[Array, Vjps]:
    y = context.xp.sigmoid(x)
    return y, (lambda g: g * (y * (1 - y)),)


@op(nonlinear_rule)
def relu(context: Context, x: Array) -> tuple[Array, Vjps]:
    return context.xp.maximum(x, 0), (lambda g: g * (x > 0),)


@op(nonlinear_rule)
def silu(context: Context, x: Array) -> tuple[Array, Vjps]:
    """x·σ(x). Elfwing, Uchibe & Doya 2018."""
    s = context.xp.sigmoid(x)
    return x * s, (lambda g: g * (s * (1 + x * (1 - s))),)


@op(nonlinear_rule)
def gelu(context: Context, x: Array) -> tuple[Array, Vjps]:
    return context.xp.gelu(x), (lambda g: context.xp.gelu_vjp(g, x),)


@op(nonlinear_rule)
def absolute(context: Context, x: Array) -> tuple[Array, Vjps]:
    """The gradient at 0 is 0."""
    return context.xp.absolute(x), (lambda g: g * (x > 0) - g * (x < 0),)


@op(linear_rule)
def clone(context: Context, x: Array) -> tuple[Array, Vjps]:
    """The same in memory of its own."""
    return context.xp.copy(x), (lambda g: g,)
