"""Changing a tensor in its own memory: of leaves outside the tape, and of tensors that the tape does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mpipar.errors import GraphError, PlacementError
from mpipar.layout.layout import Fix
from mpipar.tensor import changes, tape
from mpipar.tensor.advice import advice
from mpipar.tensor.operators import number

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Number, Tensor


def copy_(x: Tensor, other: Tensor) -> Tensor:
    """Takes over the values of a tensor of the same layout, rounded to my dtype; returns me. Moves nothing."""
    _check_tape(x, "copy_", "…")
    _check_source(x, other)
    _write(x, lambda: x.mesh.xp.copy_into(x.local, other.local))
    return x


def fill_(x: Tensor, value: Number) -> Tensor:
    """Every element the same number, on a Partial tensor in the sum; returns me."""
    _check_tape(x, "fill_", f"{value}")
    value = number(value)
    if isinstance(value, float) and not x.is_floating:
        raise TypeError(f"fill_ of {x.name or 'x'} {x.layout}: {value} into {x.dtype}; give a whole number")
    here = value if all(x.mesh.comm(axis).rank == 0 for axis in x.layout.partial) else 0
    _write(x, lambda: x.mesh.xp.fill(x.local, here))
    return x


def zero_(x: Tensor) -> Tensor:
    """`fill_` with 0."""
    _check_tape(x, "zero_", "")
    return fill_(x, 0)


def add_(x: Tensor, other: Tensor | Number) -> Tensor:
    """x becomes x + other, which must have its layout; returns me."""
    _check_tape(x, "add_", "…")
    _check_lost("add_", other)
    with tape.no_grad():
        return copy_(x, x + other)


def mul_(x: Tensor, other: Tensor | Number) -> Tensor:
    """x becomes x · other, which must have its layout; returns me."""
    _check_tape(x, "mul_", "…")
    _check_lost("mul_", other)
    with tape.no_grad():
        return copy_(x, x * other)


def _check_tape(x: Tensor, name: str, value: str) -> None:
    known = x.name or "x"
    if isinstance(x.node, tape.Node):
        raise GraphError(
            f"{name} of {known} {x.layout}: it is the result of {x.node.name!r} and may share its memory with others. "
            f"Write  {known} = …  with a new tensor, or change {known}.detach().clone()"
        )
    if x.node is not None and tape.is_recording():
        raise GraphError(
            f"{name} of {known} {x.layout}: it requires a gradient and the tape is recording. "
            f"Write  with mp.no_grad(): {known}.{name}({value})"
        )


def _check_lost(name: str, other: object) -> None:
    if tape.is_recording() and getattr(other, "requires_grad", False):
        raise GraphError(
            f"{name}: what goes in requires a gradient, which would be lost. Write  {name}(y.detach())"
        )


def _check_source(x: Tensor, other: Tensor) -> None:
    if not isinstance(other, type(x)):
        raise TypeError(
            f"copy_ of a {type(other).__name__}: write mp.tensor(value, mesh, …), or fill_ for a number"
        )
    _check_lost("copy_", other)
    names = f"copy_: {x.name or 'x'} {x.layout} from {other.name or 'y'} {other.layout}"
    if other.mesh is not x.mesh:
        raise PlacementError(f"{names} are on different meshes and do not mix")
    if other.layout != x.layout:
        apart = [axis for axis, to in x.placements.items() if other.layout.placement(axis) != to]
        fixes = [Fix(1, axis, x.layout.placement(axis)) for axis in apart if x.shape == other.shape]
        lines = [
            "the layouts differ",
            *(f"Write  {advice(other, other.name or 'y', fix)}" for fix in fixes[:1]),
        ]
        raise PlacementError("\n  ".join([names, *lines]))
    if other.is_floating and not x.is_floating:
        raise TypeError(f"{names}: {other.dtype} into {x.dtype} would be rounded: write y.astype(…)")


def _write(x: Tensor, write: Callable[[], None]) -> None:
    try:
        write()
    except ValueError as error:  # NumPy's for memory that may only be read
        raise ValueError(f"{x.name or 'x'} {x.layout}: {error}; change a copy: x.clone()") from None
    changes.note(x.mesh.xp, x.local)
