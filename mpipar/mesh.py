"""A mesh: the ranks in a grid with named axes, and a communicator for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

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


class Mesh:
    """Ranks in a grid: ``Mesh(dp=2, tp=2)`` on 4 ranks. The last axis varies fastest over ranks.

    The axes dp, pp, cp, tp and ep always exist, with size 1 where they are not named; other names may be added.
    `ranks` takes some of the ranks of the job, and then only those call: ``Mesh(ranks=[r])`` is the mesh of one
    that a parallel program compares itself with. `device` is "cpu" (where none is named), "gpu" for a card on each
    rank, or "auto" for a card where every rank has one; `ranks_per_gpu` ranks may share a card.

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
        self.ledger = Ledger()
        job = world()
        self._ranks = tuple(range(job.size) if ranks is None else ranks)  # of the job, by their rank here
        _check(axes, self._ranks, job)
        self.xp = choose(device, self._ranks, ranks_per_gpu).xp
        self.rank, self.size = self._ranks.index(job.rank), len(self._ranks)
        self.grid = _grid(axes)
        self.shape = dict(zip(self.grid.axes, self.grid.sizes, strict=True))
        self.coords = _coords(self.grid.sizes, self.rank)
        self.world = among(self._ranks, "mesh", self.ledger, self.xp)
        self._comms: dict[tuple[str | None, ...], Comm] = {}  # None first: those that are apart
        self.plans: dict[tuple[Any, ...], Any] = {}  # what `tensor.apply` keeps of operations on this mesh

    @classmethod
    def parse(cls, text: str, *, device: str | Backend | None = None) -> Mesh:
        """The mesh of a command line: ``Mesh.parse("dp=2,tp=2")``; "" puts all ranks on dp."""
        axes: dict[str, Any] = parse_axes(text) or {"dp": world().size}
        return cls(device=device, **axes)

    def __getitem__(self, axes: str | tuple[str, ...]) -> Comm:
        """The communicator of an axis, or of the product of several: ``mesh["tp"]``, ``mesh["dp", "tp"]``."""
        return self.comm(*([axes] if isinstance(axes, str) else axes))

    def __repr__(self) -> str:
        named = ", ".join(f"{axis}={size}" for axis, size in self.shape.items() if size > 1)
        return f"Mesh({named or 'one rank'}; rank {self.rank})"

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
