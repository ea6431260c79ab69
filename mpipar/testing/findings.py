"""What a check has found on each rank, and the verdict, which is the same on all ranks.

A check goes on after a finding and never raises on one rank alone, so that no rank is left waiting; `settle`
tells all ranks everything in one collective, and raises on each or on none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import zip_longest
from math import isnan
from operator import add
from typing import Any, NamedTuple, TypeAlias

from mpipar.layout import Layout
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor

SHOWN = 5  # findings in a message

Coords: TypeAlias = tuple[int, ...]


class Dot(NamedTuple):
    """One rank's parts of two numbers that should be equal, and of the size of what they are made of."""

    what: str
    left: float
    right: float
    size: float


class Value(NamedTuple):
    """What a Tensor should be: its layout, and the whole value as a host array."""

    what: str
    layout: Layout
    whole: Any


class Findings:
    """Collects; see the module."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._texts: list[str] = []
        self._dots: list[Dot] = []
        self._values: list[Value] = []
        self._arrays: list[Any] = []  # this rank's part of each value

    def expect(self, holds: bool, text: str) -> None:
        """A statement of this rank."""
        if not holds:
            self._texts.append(text)

    def dot(self, what: str, left: float, right: float, size: float) -> None:
        """Two sums over ranks that should be equal, of terms whose sizes sum to `size`."""
        self._dots.append(Dot(what, left, right, size))

    def value(self, what: str, x: Tensor, whole: Any) -> None:
        """The pieces of `x`, summed where it is Partial, should be those of `whole`; copies have the same bits."""
        self._values.append(Value(what, x.layout, whole))
        self._arrays.append(on_host(x))

    def settle(self, title: str, rtol: float) -> None:
        """Raises AssertionError on all ranks where any has a finding. Collective."""
        names = [dot.what for dot in self._dots] + [value.what for value in self._values]
        mine = (self.mesh.coords, names, self._texts, self._dots, self._arrays)
        told = self.mesh.world.allgather_object(mine)
        # Where a move is wrong the ranks' wholes may differ: rank 0 judges for all.
        found = self.mesh.world.broadcast_object(self._judged(told, rtol) if self.mesh.rank == 0 else [])
        if found:
            more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
            raise AssertionError("\n  ".join([f"{title} on {self.mesh!r}:", *found[:SHOWN], *more]))

    def _judged(self, told: list[Any], rtol: float) -> list[str]:
        """Everything that is wrong, by what all ranks told."""
        found = [f"rank {rank}: {text}" for rank, (_, _, texts, _, _) in enumerate(told) for text in texts]
        return found + (
            _compared_differently([names for _, names, _, _, _ in told]) or self._apart(told, rtol)
        )

    def _apart(self, told: list[Any], rtol: float) -> list[str]:
        """What is not as it should be, by what all ranks told."""
        coords, _, _, dots, arrays = zip(*told, strict=True)
        found: list[str] = []
        for parts in zip(*dots, strict=True):
            found += _dot_apart(parts, rtol)
        for value, parts in zip(self._values, zip(*arrays, strict=True), strict=True):
            held = dict(zip(coords, parts, strict=True))
            found += [*_pieces_apart(value, held, rtol), *_copies_apart(value, held)]
        return found


def on_host(x: Tensor) -> Any:
    """This rank's part as a host array; 16-bit numbers as float32."""
    return x.mesh.xp.to_host(x.mesh.xp.widen(x.local))


def _compared_differently(names: list[list[str]]) -> list[str]:
    """Where the ranks did not compare the same things in the same order."""
    for rank, theirs in enumerate(names):
        for mine, other in zip_longest(names[0], theirs, fillvalue="nothing more"):
            if mine != other:
                return [f"the ranks compared different things: {mine} on rank 0, {other} on rank {rank}"]
    return []


def _dot_apart(parts: tuple[Dot, ...], rtol: float) -> Iterator[str]:
    left, right, size = (sum(numbers) for numbers in zip(*(part[1:] for part in parts), strict=True))
    apart = abs(left - right)
    if isnan(apart) or apart > rtol * size:
        yield f"{parts[0].what}: {left:.15g} against {right:.15g}, {rtol:g} of {size:.3g} is allowed"


def _pieces_apart(value: Value, held: dict[Coords, Any], rtol: float) -> Iterator[str]:
    """The sums over the Partial axes against the pieces of the whole."""
    layout, largest = value.layout, float(abs(value.whole).max(initial=1))
    for coords, terms in _grouped(held, layout, [axis in layout.partial for axis in layout.grid.axes]):
        piece = value.whole[_slices(layout, coords)]
        if any(term.shape != piece.shape for term in terms):
            yield f"{value.what} {layout}: a piece of {terms[0].shape}, {piece.shape} is wanted"
            continue
        apart = float(abs(reduce(add, terms) - piece).max(initial=0)) / largest
        if not apart <= rtol:
            yield f"{value.what} {layout}: {apart:.1e} apart at {_place(layout, coords)}, {rtol:g} is allowed"


def _copies_apart(value: Value, held: dict[Coords, Any]) -> Iterator[str]:
    """The copies over the Replicate axes, bit for bit."""
    layout = value.layout
    copied = [axis not in layout.partial and axis not in layout.cut_dims for axis in layout.grid.axes]
    for coords, copies in _grouped(held, layout, copied):
        if len({copy.tobytes() for copy in copies}) > 1:
            yield f"{value.what} {layout}: copies differ in their bits at {_place(layout, coords)}"


def _grouped(
    held: dict[Coords, Any], layout: Layout, together: list[bool]
) -> Iterator[tuple[Coords, list[Any]]]:
    """The arrays of ranks that differ only in these coordinates, with the coordinates of the first."""
    groups: dict[Coords, list[Coords]] = {}
    for coords in held:
        kept = tuple(0 if merged else c for c, merged in zip(coords, together, strict=True))
        groups.setdefault(kept, []).append(coords)
    for members in groups.values():
        yield members[0], [held[coords] for coords in members]


def _slices(layout: Layout, coords: Coords) -> tuple[slice, ...]:
    pieces = (layout.piece(dim, coords) for dim in range(layout.ndim))
    return tuple(slice(piece.start, piece.stop) for piece in pieces)


def _place(layout: Layout, coords: Coords) -> str:
    grid = layout.grid
    sized = [(axis, c) for axis, size, c in zip(grid.axes, grid.sizes, coords, strict=True) if size > 1]
    return " ".join(f"{axis}={c}" for axis, c in sized) or "the one rank"
