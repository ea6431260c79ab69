"""Counting what is communicated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import NamedTuple, TypeAlias

from mpipar.mesh import Mesh


class Tally(NamedTuple):
    """Calls of one collective, and the bytes that this rank sent in them (see comm/ledger.py)."""

    calls: int
    bytes: int


Counts: TypeAlias = dict[tuple[str, str], Tally]


@contextmanager
def count_collectives(mesh: Mesh) -> Iterator[Counts]:
    """Counts what is communicated over a mesh inside the block, by axis and operation; filled when the block ends.

    Axes of one rank move nothing and do not count. Of several axes at once the name is ``"dp,tp"``.

    >>> import mpipar as mp
    >>> mesh = mp.Mesh(ranks=[0])
    >>> x = mp.ones((8, 4), mesh, tp=mp.Partial())
    >>> with count_collectives(mesh) as counts:
    ...     y = x.allreduce("tp")
    >>> counts  # with tp=2: {("tp", "allreduce"): Tally(calls=1, bytes=128)}
    {}
    """
    counts: Counts = {}
    with mesh.ledger.record() as calls:
        yield counts
    for call in calls:
        if _ranks(mesh, call.label) > 1:
            found = counts.get((call.label, call.operation), Tally(0, 0))
            counts[call.label, call.operation] = Tally(found.calls + 1, found.bytes + call.bytes)


def _ranks(mesh: Mesh, label: str) -> int:
    """The size of a communicator, by its axes; that of all ranks is labelled otherwise."""
    return prod(mesh.shape.get(axis, mesh.size) for axis in label.split(","))
