"""Comparisons, logic and powers: what ``<``, ``==``, ``&`` and ``**`` mean for Tensors."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NoReturn

from mpipar import ops
from mpipar.ops.base import Op
from mpipar.tensor.apply import apply

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Number, Tensor


def number(value: Any) -> Number:
    """A Python number, so that a NumPy scalar does not widen what it meets."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError(
        f"a Tensor and a {type(value).__name__} do not mix: write mp.tensor(value, mesh, …) with placements"
    )


def less(x: Tensor, other: Tensor | Number) -> Tensor:
    """A boolean Tensor; both may be cut alike, none Partial."""
    return _related(x, other, ops.less, ops.less_than_number)


def less_equal(x: Tensor, other: Tensor | Number) -> Tensor:
    return _related(x, other, ops.less_equal, ops.at_most_number)


def greater(x: Tensor, other: Tensor | Number) -> Tensor:
    return (
        apply(ops.less, other, x) if isinstance(other, type(x)) else _with(x, other, ops.greater_than_number)
    )


def greater_equal(x: Tensor, other: Tensor | Number) -> Tensor:
    return (
        apply(ops.less_equal, other, x)
        if isinstance(other, type(x))
        else _with(x, other, ops.at_least_number)
    )


def equal(x: Tensor, other: object) -> Tensor:
    """Element by element. Whether two names are one Tensor is asked by ``is``."""
    return _related(x, other, ops.equal, ops.equal_to_number)


def not_equal(x: Tensor, other: object) -> Tensor:
    return _related(x, other, ops.not_equal, ops.other_than_number)


def _related(x: Tensor, other: Any, of_two: Op, of_number: Op) -> Tensor:
    return apply(of_two, x, other) if isinstance(other, type(x)) else _with(x, other, of_number)


def _with(x: Tensor, other: Any, of_number: Op) -> Tensor:
    if other is None:
        raise TypeError("a Tensor is compared with None: write  x is None")
    return apply(of_number, x, number=number(other))


def logical_and(x: Tensor, other: Tensor) -> Tensor:
    """Of boolean Tensors."""
    return apply(ops.logical_and, *_booleans("&", x, other))


def logical_or(x: Tensor, other: Tensor) -> Tensor:
    """Of boolean Tensors."""
    return apply(ops.logical_or, *_booleans("|", x, other))


def logical_xor(x: Tensor, other: Tensor) -> Tensor:
    """Of boolean Tensors."""
    return apply(ops.logical_xor, *_booleans("^", x, other))


def logical_not(x: Tensor) -> Tensor:
    """Of a boolean Tensor."""
    return apply(ops.logical_not, *_booleans("~", x))


def _booleans(sign: str, x: Tensor, *others: Any) -> list[Tensor]:
    wanted = "~(x > 0)" if sign == "~" else f"(x > 0) {sign} (y > 0)"
    for y in (x, *others):
        if not isinstance(y, type(x)):
            raise TypeError(
                f"{sign} of a Tensor and a {type(y).__name__}: boolean Tensors are wanted, as  {wanted}"
            )
        if str(y.dtype) != "bool":
            raise TypeError(f"{sign} of a Tensor of {y.dtype}: compare first, as  {wanted}")
    return [x, *others]


def power(x: Tensor, exponent: Any) -> Tensor:
    """x to a number."""
    if isinstance(exponent, type(x)):
        raise TypeError("a Tensor to the power of a Tensor: write  (y * x.log()).exp()")
    return apply(ops.power, x, exponent=number(exponent))


def power_of(x: Tensor, base: Any) -> NoReturn:
    raise TypeError(f"a number to the power of a Tensor: write  (x * math.log({base})).exp()")
