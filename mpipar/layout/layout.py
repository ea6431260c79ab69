"""A layout: the global shape, and for each dim the axes that cut it, outermost first, with all offsets.

Layouts are equal when these are. They are values: nothing here knows which rank it runs on, so a rank's
coordinates come as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import NamedTuple

from mpipar.blocks import spread
from mpipar.layout.placement import Partial, Placement, Replicate, Shard

SHARED = 10_000  # layouts of which one object is kept


class Fix(NamedTuple):
    """A move that would help: of an operand (by position) on an axis to a placement."""

    operand: int
    axis: str
    to: Placement


class Recut(NamedTuple):
    """Another way to help: to cut a dim of an operand anew, by these axes, outermost first."""

    operand: int
    dim: int
    axes: tuple[str, ...]


class Misfit(Exception):
    """Placements that do not fit. `tensor.apply` and the moves turn it into a PlacementError with names and prices."""

    def __init__(self, reason: str, *fixes: Fix | Recut) -> None:
        super().__init__(reason)
        self.reason, self.fixes = reason, fixes


@dataclass(frozen=True)
class Grid:
    """The named axes of a mesh and their sizes; the last axis varies fastest over ranks."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    named: tuple[str, ...] = ()  # by the user: there gradients are owed even where the size is 1

    def size(self, axis: str) -> int:
        return self.sizes[self.axes.index(axis)]

    def number(self, axes: Sequence[str], coords: Sequence[int]) -> int:
        """The position of the coordinates among the ranks of some axes, the last of which varies fastest."""
        number = 0
        for axis in axes:
            place = self.axes.index(axis)
            number = number * self.sizes[place] + coords[place]
        return number


@dataclass(frozen=True)
class Cut:
    """How one dim is cut: the axes, outermost first, and the offsets of all pieces (one more than pieces)."""

    axes: tuple[str, ...] = ()
    offsets: tuple[int, ...] = (0, 0)

    @property
    def length(self) -> int:
        return self.offsets[-1]

    def split(self, axis: str, size: int) -> Cut:
        """Each piece cut again by the block rule: `axis` becomes the innermost."""
        starts = [start for first, last in pairwise(self.offsets) for start in spread(first, last, size)]
        return Cut((*self.axes, axis), (*starts, self.length))

    def merge(self, size: int) -> Cut:
        """Without the innermost axis, which has `size` ranks."""
        return Cut(self.axes[:-1], (*self.offsets[:-1:size], self.length))


@dataclass(frozen=True)
class Layout:
    """Global shape and placements on every axis of the grid."""

    grid: Grid
    cuts: tuple[Cut, ...]  # one a dim
    partial: frozenset[str] = frozenset()
    _hash: int = field(init=False, repr=False, compare=False)
    _local: dict[tuple[int, ...], tuple[int, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.grid, self.cuts, self.partial)))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def make(cls, grid: Grid, shape: Sequence[int], placements: Mapping[str, Placement]) -> Layout:
        """The layout of balanced pieces; the order of the placements is the order of the cuts."""
        layout = cls(grid, tuple(Cut((), (0, length)) for length in shape))
        for axis, placement in placements.items():
            layout = layout.placed(axis, placement)
        return shared(layout)

    # ---- asking -----------------------------------------------------------------------------------------

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(cut.length for cut in self.cuts)

    @property
    def ndim(self) -> int:
        return len(self.cuts)

    @cached_property
    def cut_dims(self) -> dict[str, int]:
        """The dim that each cutting axis cuts."""
        return {axis: dim for dim, cut in enumerate(self.cuts) for axis in cut.axes}

    def placement(self, axis: str) -> Placement:
        if axis in self.partial:
            return Partial()
        dim = self.cut_dims.get(axis)
        return Replicate() if dim is None else Shard(dim)

    @cached_property
    def placements(self) -> dict[str, Placement]:
        """The placement on every axis of the grid."""
        return {axis: self.placement(axis) for axis in self.grid.axes}

    def piece(self, dim: int, coords: Sequence[int]) -> range:
        """The global indices along `dim` that a rank holds. The only source of indices."""
        cut = self.cuts[dim]
        number = self.grid.number(cut.axes, coords)
        return range(cut.offsets[number], cut.offsets[number + 1])

    def local_shape(self, coords: tuple[int, ...]) -> tuple[int, ...]:
        found = self._local.get(coords)
        if found is None:
            found = tuple(len(self.piece(dim, coords)) for dim in range(self.ndim))
            self._local[coords] = found
        return found

    def sizes(self, axes: Sequence[str], dim: int, coords: Sequence[int]) -> tuple[int, ...]:
        """The lengths of the pieces that the ranks of the innermost `axes` of a cut hold within my outer piece."""
        cut = self.cuts[dim]
        count = prod(self.grid.size(axis) for axis in axes)
        first = self.grid.number(cut.axes[: -len(axes)], coords) * count
        mine = cut.offsets[first : first + count + 1]
        return tuple(stop - start for start, stop in pairwise(mine))

    def is_first(self, coords: Sequence[int]) -> bool:
        """Whether a rank is the first on all axes on which this is Replicate."""
        return all(
            coord == 0 or isinstance(self.placement(axis), (Partial, Shard))
            for axis, coord in zip(self.grid.axes, coords, strict=True)
        )

    # ---- changing ---------------------------------------------------------------------------------------

    @cached_property
    def dual(self) -> Layout:
        """The layout of the gradient. On an axis of one rank that nobody named nothing is owed."""
        axes = (axis for axis in self.grid.axes if self.grid.size(axis) > 1 or axis in self.grid.named)
        replicated = {axis for axis in axes if axis not in self.partial and axis not in self.cut_dims}
        return Layout(self.grid, self.cuts, frozenset(replicated))

    def placed(self, axis: str, to: Placement) -> Layout:
        """The layout after a move of one axis. Raises Misfit where the axis is not the innermost cut."""
        if axis not in self.grid.axes:
            raise Misfit(f"axis {axis!r} is not an axis of the mesh, which has {', '.join(self.grid.axes)}")
        whole = self._without(axis)
        match to:
            case Partial():
                return Layout(self.grid, whole.cuts, whole.partial | {axis})
            case Shard(dim):
                if not 0 <= dim < self.ndim:
                    raise Misfit(f"axis {axis!r}: Shard({dim}) of a tensor of {self.ndim} dims")
                cut = whole.cuts[dim].split(axis, self.grid.size(axis))
                return whole.with_cut(dim, cut)
        return whole

    def with_cut(self, dim: int, cut: Cut) -> Layout:
        return Layout(self.grid, (*self.cuts[:dim], cut, *self.cuts[dim + 1 :]), self.partial)

    def _without(self, axis: str) -> Layout:
        dim = self.cut_dims.get(axis)
        if dim is None:
            return Layout(self.grid, self.cuts, self.partial - {axis})
        cut = self.cuts[dim]
        if cut.axes[-1] != axis:
            inner = cut.axes[cut.axes.index(axis) + 1 :]
            raise Misfit(
                f"axis {axis!r} is not the innermost cut of dim {dim}, which is cut by {', '.join(cut.axes)}: "
                f"move {', '.join(reversed(inner))} first",
                Fix(0, inner[-1], Replicate()),
            )
        return self.with_cut(dim, cut.merge(self.grid.size(axis)))

    @property
    def words(self) -> str:
        """The placements that are not Replicate, as one writes them: ``tp=Shard(1) dp=Partial()``."""
        grid = self.grid
        cuts = [f"{axis}=Shard({dim})" for dim, cut in enumerate(self.cuts) for axis in cut.axes]
        return " ".join([*cuts, *(f"{axis}=Partial()" for axis in grid.axes if axis in self.partial)])

    def __str__(self) -> str:
        """Shape and placements on one line: ``(16, 64; tp=Shard(1))``."""
        shape = ", ".join(map(str, self.shape))
        return f"({shape}; {self.words})" if self.words else f"({shape})"


_shared: dict[Layout, Layout] = {}


def shared(layout: Layout) -> Layout:
    """One object for all equal layouts: a dict finds the same object far sooner than an equal one."""
    if len(_shared) >= SHARED:
        _shared.clear()
    return _shared.setdefault(layout, layout)
