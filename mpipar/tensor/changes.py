"""In-place changes, and the gradients that they would spoil.

A vjp keeps arrays of the forward pass. Where one of them is changed before backward the gradient would be wrong and
nothing would show it. So each change notes when it was made and which addresses it wrote, and backward looks, at nodes
older than the last change only, whether the arrays that the vjp keeps lie there. What a vjp keeps is alive from the
forward pass on, so an address means the same array. Recording an operation costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import count
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from mpipar.backend import Array, Backend
from mpipar.errors import GraphError

if TYPE_CHECKING:
    from mpipar.tensor.tape import Node

KEPT = 10_000  # stretches of memory; then they become one, which errs on the safe side

numbers = count()  # of nodes and changes, in the order in which they are made
latest = -1  # the number of the last change

_changed: dict[tuple[Backend, int, int], int] = {}  # a stretch of memory, and when it was last changed


def note(xp: Backend, x: Array) -> None:
    """To be called where the memory of a tensor is changed in place."""
    global latest  # noqa: PLW0603
    latest = next(numbers)
    if len(_changed) >= KEPT:
        _join()
    _changed[(xp, *xp.addresses(x))] = latest


def check(node: Node, xp: Backend) -> None:
    """Raises GraphError where something that the vjp keeps was changed after the node was made."""
    later = [stretch[1:] for stretch, when in _changed.items() if when > node.number and stretch[0] is xp]
    for array in kept_arrays(node.vjps) if later else ():
        start, stop = xp.addresses(array)
        if any(first < stop and start < last for first, last in later):
            raise GraphError(
                f"backward through {node.name!r}: a value {tuple(array.shape)} that its gradient needs was changed in "
                "place in between. Change it after backward, or change a copy of it: x.clone()"
            )


def kept_arrays(value: Any) -> Iterator[Array]:
    """The arrays that a vjp holds on to: in closures, defaults, containers, dataclasses and Tensors."""
    waiting, seen = [value], set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if hasattr(found, "nbytes") and hasattr(found, "dtype"):
            yield found
        else:
            waiting += _inside(found)


def _inside(found: Any) -> list[Any]:
    inside: list[Any] = []
    match found:
        case FunctionType():
            cells = [cell.cell_contents for cell in found.__closure__ or ()]
            inside = [*cells, found.__defaults__, found.__kwdefaults__]
        case MethodType():
            inside = [found.__func__, found.__self__]
        case partial():
            inside = [found.func, found.args, found.keywords]
        case tuple() | list():
            inside = list(found)
        case dict():
            inside = list(found.values())
        case _ if is_dataclass(found) and not isinstance(found, type):
            inside = [getattr(found, field.name) for field in fields(found)]
        case _ if hasattr(found, "local"):
            inside = [found.local]
    return inside


def _join() -> None:
    stretches = {xp for xp, _, _ in _changed}
    joined = {
        (xp, min(s for x, s, _ in _changed if x is xp), max(e for x, _, e in _changed if x is xp)): latest
        for xp in stretches
    }
    _changed.clear()
    _changed.update(joined)
