"""A mesh: the ranks in a grid with named axes, and a communicator for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, TypeAlias

from mpipar.backend import Backend
from mpipar.comm import Comm, Ledger
from mpipar.config.axes import AXES, parse_axes
from mpipar.errors import UsageError
from mpipar.job import among, world
from mpipar.job.device import choose
from mpipar.layout.layout import Grid

__all__ = ["Mesh"]

RESERVED = {  # the other arguments of what takes placements by axis name
    "name", "mesh", "shape", "dtype", "seed", "std", "requires_grad", "ranks", "device",
    "ranks_per_gpu", "low", "high",
}  # fmt: skip


Places: TypeAlias = dict[str, tuple[int, ...]]


class Mesh:
    """Ranks in a grid: ``Mesh(dp=2, tp=2)`` on 4 ranks. The last axis varies fastest over ranks.

    The axes dp, pp, cp, tp and ep always exist, with size 1 where they are not named; other names may be added.
    `ranks` takes some of the ranks of the job, and then only those call: ``Mesh(ranks=[r])`` is the mesh of one
    that a parallel program compares itself with. `device` is "cpu" (where none is named), "gpu" for a card on each
    rank, or "auto" for a card where every rank has one; `ranks_per_gpu` ranks may share a card.
    `at` gives a part of it, as a stage of a pipeline has: a tensor on a part does not exist elsewhere.

    >>> mesh = Mesh(ranks=[0], tp=1)
    >>> mesh.size, mesh["tp"].size, mesh.shape["dp"]
    (1, 1, 1)
    """

    def __init__(
        self,
        *,
        ranks: Sequence[int] | None = None,
        device: str | Backend | None = None,
        ranks_per_gpu: int = 1,
        **axes: int,
    ) -> None:
        job = world()
        ranks = tuple(range(job.size) if ranks is None else ranks)  # of the job, by their rank here
        _check(axes, ranks, job)
        grid = _grid(axes)
        places = {axis: tuple(range(size)) for axis, size in zip(grid.axes, grid.sizes, strict=True)}
        self._fill(self, grid, ranks, places, Ledger(), choose(device, ranks, ranks_per_gpu).xp)

    def _fill(
        self, whole: Mesh, grid: Grid, ranks: tuple[int, ...], places: Places, ledger: Ledger, xp: Backend
    ) -> None:
        """`whole`: the mesh of which this is a part, or itself; `places`: of each axis the coordinates there."""
        self.whole, self.grid, self.places, self.ledger, self.xp = whole, grid, places, ledger, xp
        self._ranks = ranks
        self.shape = dict(zip(grid.axes, grid.sizes, strict=True))
        self.size, self.here = len(ranks), world().rank in ranks
        self._comms: dict[tuple[str | None, ...], Comm] = {}  # None first: those that are apart
        self._parts: dict[tuple[tuple[int, ...], ...], Mesh] = {}  # by their places
        self.plans: dict[tuple[Any, ...], Any] = {}  # what is kept of operations and moves on this mesh

    @cached_property
    def rank(self) -> int:
        """My number on this mesh. Raises UsageError where I am not on it."""
        if not self.here:
            raise UsageError(
                f"rank {self.whole.rank} is not on {self.name}: only its ranks hold tensors there and communicate; "
                f"ask mesh.here first"
            )
        return self._ranks.index(world().rank)

    @cached_property
    def coords(self) -> tuple[int, ...]:
        """My coordinates, one an axis of the grid."""
        return _coords(self.grid.sizes, self.rank)

    @cached_property
    def world(self) -> Comm:
        """All ranks of this mesh."""
        assert self.rank >= 0  # raises on another rank
        return among(self._ranks, "mesh", self.ledger, self.xp)

    def at(self, **places: int | tuple[int, ...]) -> Mesh:
        """The part of the mesh at these coordinates: ``mesh.at(pp=1)`` is the second stage, ``mesh.at(pp=(0, -1))`` the
        first and the last. No communication; one object for one place, and the mesh itself for all of it.

        Axes keep their names, with as many places as were named. Only its ranks hold tensors on a part, so that `here`
        is False elsewhere. Coordinates are those of this mesh, negative ones count from the end.

        >>> mesh = Mesh(ranks=[0], pp=1)
        >>> mesh.at(pp=(0, -1)) is mesh.at(pp=0) is mesh
        True
        """
        chosen = dict(self.places)
        for axis, numbers in places.items():
            chosen[axis] = _chosen(self, axis, numbers if isinstance(numbers, tuple) else (numbers,))
        whole, key = self.whole, tuple(chosen.values())
        if key == tuple(whole.places.values()):
            return whole
        if key not in whole._parts:
            part = whole._parts[key] = object.__new__(Mesh)
            grid = Grid(whole.grid.axes, tuple(map(len, key)), whole.grid.named)
            numbers_ = (whole.grid.number(whole.grid.axes, coords) for coords in product(*key))
            part._fill(whole, grid, tuple(whole._ranks[n] for n in numbers_), chosen, whole.ledger, whole.xp)
        return whole._parts[key]

    @property
    def name(self) -> str:
        """Axes and sizes, and where a part lies: ``Mesh(tp=2, at pp=1)``."""
        named = [f"{axis}={size}" for axis, size in self.shape.items() if size > 1]
        parts = [(axis, at) for axis, at in self.places.items() if len(at) < self.whole.shape[axis]]
        where = [f"at {axis}={at[0] if len(at) == 1 else at}" for axis, at in parts]
        return f"Mesh({', '.join([*named, *where]) or 'one rank'})"

    @classmethod
    def parse(cls, text: str, *, device: str | Backend | None = None) -> Mesh:
        """The mesh of a command line: ``Mesh.parse("dp=2,tp=2")``; "" puts all ranks on dp."""
        axes: dict[str, Any] = parse_axes(text) or {"dp": world().size}
        return cls(device=device, **axes)

    def __getitem__(self, axes: str | tuple[str, ...]) -> Comm:
        """The communicator of an axis, or of the product of several: ``mesh["tp"]``, ``mesh["dp", "tp"]``."""
        return self.comm(*([axes] if isinstance(axes, str) else axes))

    def __repr__(self) -> str:
        return f"{self.name[:-1]}; {f'rank {self.rank}' if self.here else 'not here'})"

    def comm(self, *axes: str) -> Comm:
        """The ranks that differ from me on these axes only, in the order of the axes, the last one fastest."""
        if axes not in self._comms:
            for axis in axes:
                if axis not in self.shape:
                    raise KeyError(
                        f"axis {axis!r} is not one of the mesh's, which are {', '.join(self.shape)}"
                    )
                if axes.count(axis) > 1:
                    raise KeyError(f"axis {axis!r} is named twice in mesh[{', '.join(map(repr, axes))}]")
            self._comms[axes] = among(self._peers(axes), ",".join(axes), self.ledger, self.xp)
        return self._comms[axes]

    def apart(self, *axes: str) -> Comm:
        """`comm` with messages of its own, for collectives that go on behind all others between these ranks.

        All of them call it the first time, when they have nothing else to wait for.
        """
        if (None, *axes) not in self._comms:
            other = among(self._peers(axes), ",".join(axes), self.ledger, self.xp, apart=True)
            self._comms[None, *axes] = other.prepared()
        return self._comms[None, *axes]

    def _peers(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        """The ranks of the job that share my coordinates on all other axes."""
        places = [self.grid.axes.index(axis) for axis in axes]
        peers = []
        for numbers in product(*(range(self.grid.sizes[place]) for place in places)):
            coords = list(self.coords)
            for place, number in zip(places, numbers, strict=True):
                coords[place] = number
            peers.append(self._ranks[self.grid.number(self.grid.axes, coords)])
        return tuple(peers)


def _grid(axes: dict[str, int]) -> Grid:
    sizes = {**axes, **{axis: 1 for axis in AXES if axis not in axes}}
    return Grid(tuple(sizes), tuple(sizes.values()), tuple(axes))


def _coords(sizes: Sequence[int], rank: int) -> tuple[int, ...]:
    coords = []
    for size in reversed(sizes):
        rank, coord = divmod(rank, size)
        coords.append(coord)
    return tuple(reversed(coords))


def _chosen(mesh: Mesh, axis: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """These coordinates of an axis, as the whole mesh counts them, each once and in order."""
    if axis not in mesh.shape:
        raise UsageError(
            f"mesh.at: axis {axis!r} is not one of the mesh's, which are {', '.join(mesh.shape)}"
        )
    size = mesh.shape[axis]
    for number in numbers or (None,):
        if type(number) is not int or not -size <= number < size:
            said = numbers[0] if len(numbers) == 1 else numbers
            raise UsageError(
                f"mesh.at({axis}={said!r}): the places of {axis} are 0 to {size - 1}; name at least one"
            )
    return tuple(sorted({mesh.places[axis][number] for number in numbers}))


def _check(axes: dict[str, int], ranks: Sequence[int], job: Comm) -> None:
    for axis, length in axes.items():
        if axis in RESERVED or not axis.isidentifier():
            raise UsageError(f"Mesh: {axis!r} cannot name an axis; choose another word")
        if type(length) is not int or length < 1:
            raise UsageError(f"Mesh: axis {axis}={length!r}; a size is a whole number of at least 1")
    if not ranks or len(set(ranks)) != len(ranks):
        raise UsageError(f"Mesh: ranks={list(ranks)}; name each rank once")
    if job.rank not in ranks:
        raise UsageError(f"Mesh: rank {job.rank} is not in ranks={list(ranks)}; call it on those ranks only")
    if not set(ranks) <= set(range(job.size)):
        raise UsageError(f"Mesh: ranks={list(ranks)}; the ranks are 0 to {job.size - 1}")
    if prod(axes.values()) != len(ranks):
        asked = ", ".join(f"{axis}={length}" for axis, length in axes.items())
        raise UsageError(
            f"Mesh({asked}): the product of the sizes is {prod(axes.values())}, the number of ranks {len(ranks)}; "
            f"write Mesh(dp={len(ranks)}) or other sizes with that product, or start more or fewer ranks"
        )
