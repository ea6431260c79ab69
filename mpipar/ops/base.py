"""What an operation is.

Forward takes a Context and local arrays and returns the result and its vjp: either one function a
differentiable operand, so that only what is wanted is computed, or a single function that returns the
gradients of all operands (None where there is none). A vjp never changes the gradient that it is handed,
and never communicates: the duals of the placements make that right. What it returns may be unmade (ops/unmade.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeAlias
from weakref import WeakSet

from mpipar.backend import Array, Backend
from mpipar.layout import Layout
from mpipar.ops.unmade import Unmade

Gradient: TypeAlias = Array | Unmade
Vjp: TypeAlias = Callable[[Array], Gradient]
Vjps: TypeAlias = tuple[Vjp | None, ...] | Callable[[Array], tuple[Gradient | None, ...]]

NO_GRADIENT: Vjps = ()  # of an operation whose result has none: it is left off the tape


@dataclass(frozen=True, slots=True)
class Context:
    """What an operation may know of where it runs."""

    xp: Backend
    layouts: tuple[Layout, ...]  # of the operands
    out: Layout
    coords: tuple[int, ...]
    out_shape: tuple[int, ...] = field(init=False)  # the local shape of the result

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_shape", self.out.local_shape(self.coords))

    def first(self, operand: int, dim: int) -> int:
        """The global index of my first row along a dim of an operand."""
        return self.layouts[operand].piece(dim, self.coords).start

    def room(self, layout: Layout, shape: tuple[int, ...], *factors: Array) -> Array | None:
        """An `out` for a product of that layout where ranks will add their terms of it: a reduction reads it there."""
        owed = any(layout.grid.size(axis) > 1 for axis in layout.partial)
        dtypes = {x.dtype for x in factors}
        return self.xp.empty_shared(shape, dtypes.pop()) if owed and len(dtypes) == 1 else None

    def index(self, layout: Layout) -> list[Array]:
        """The global indices of my piece, one array a dim."""
        pieces = (layout.piece(dim, self.coords) for dim in range(layout.ndim))
        return [self.xp.arange(piece.start, piece.stop) for piece in pieces]


@dataclass(frozen=True, eq=False)
class Op:
    """An operation: `forward(context, *arrays, **static)` and `rule(*layouts, **seen)`."""

    name: str
    forward: Callable[..., tuple[Array, Vjps]]
    rule: Callable[..., Layout]
    operands: tuple[str, ...]
    seen: tuple[str, ...]  # the static arguments that the layout depends on: those that the rule names
    communicates: bool = False  # it is given a communicator, `comm`
    may_skip_value: bool = False  # with value=False only its vjps are made

    def __repr__(self) -> str:
        return f"Op({self.name})"


KNOWN: WeakSet[Op] = WeakSet()  # all that were made: who measures them puts another `forward` in their place


def op(rule: Callable[..., Layout]) -> Callable[[Callable[..., tuple[Array, Vjps]]], Op]:
    """Makes an Op of a forward function; its array parameters name the operands."""

    def make(forward: Callable[..., tuple[Array, Vjps]]) -> Op:
        kinds = signature(forward).parameters.values()
        names = [p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
        seen = tuple(p.name for p in signature(rule).parameters.values() if p.kind is p.KEYWORD_ONLY)
        static = {p.name for p in kinds if p.kind is p.KEYWORD_ONLY}
        name = forward.__name__.rstrip("_")
        made = Op(name, forward, rule, tuple(names[1:]), seen, "comm" in static, "value" in static)
        KNOWN.add(made)
        return made

    return make


def unbroadcast(context: Context, operand: int, g: Array) -> Array:
    """The gradient of a broadcast operand: summed over the dims along which it was repeated."""
    shape, wide = context.layouts[operand].shape, context.out.shape
    extra = len(wide) - len(shape)
    if extra:
        g = context.xp.sum(g, range(extra))
    repeated = [dim for dim, length in enumerate(shape) if length == 1 and wide[dim + extra] != 1]
    return context.xp.sum(g, repeated, keepdims=True) if repeated else g


def normalized(dim: int, ndim: int) -> int:
    """A dim counted from the front. Raises ValueError where there is no such dim."""
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim {dim} of a tensor of {ndim} dims")
    return dim % ndim


def normalized_dims(dims: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """All dims where None; a sorted tuple counted from the front."""
    if dims is None:
        return tuple(range(ndim))
    listed: Sequence[Any] = [dims] if isinstance(dims, int) else dims
    return tuple(sorted({normalized(dim, ndim) for dim in listed}))
