"""Buckets: many gradients that are moved together, so that a sync is one collective for all of them.

The parameters of a bucket owe their gradients on the same axes, to the same kind of target, in one dtype. Where
the target is whole the gradients are views of one flat array. Where ZeRO cuts it they are arrays of their own, and a
carrier takes their pieces to the ranks that update them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from math import prod

from mpipar.backend import Array, DType
from mpipar.nn.pieces import Carrier, target
from mpipar.tensor import Tensor

BUCKET_BYTES = 4 * 2**20  # of gradients, that are synced by one collective


class Bucket:
    """Parameters of one kind, and how their gradients are moved."""

    def __init__(self, parameters: list[Tensor]) -> None:
        first = parameters[0]
        self.parameters, self.mesh = parameters, first.mesh
        self.dtype: DType = first.mesh.xp.widen(first.local).dtype  # gradients of 16-bit weights are float32
        self.scattered, self.owed = moves(first)
        for axes in filter(None, (self.scattered, self.owed)):
            self.mesh.apart(*axes)  # made now, not in the middle of a backward
        self.buffer: Array | None = None
        self.carrier: Carrier | None = None
        if self.scattered:
            layouts = [p.layout for p in parameters]
            self.carrier = Carrier(self.mesh, self.scattered, layouts, [target(p) for p in parameters])
        else:
            self.buffer = self._flat()
        for parameter in parameters:
            parameter.leaf.home = self

    def settle(self) -> None:
        """Zeros where no gradient has arrived."""
        for parameter in self.parameters:
            parameter.leaf.settle()

    def _flat(self) -> Array:
        starts = list(accumulate((p.local.size for p in self.parameters), initial=0))
        buffer = self.mesh.xp.empty_shared((starts[-1],), self.dtype)  # `adopt` fills every part
        for parameter, (start, stop) in zip(self.parameters, pairwise(starts), strict=True):
            parameter.leaf.adopt(buffer[start:stop].reshape(parameter.local.shape))
        return buffer


def moves(parameter: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How sync moves a gradient: the axes over which it is reduce_scattered, then those over which it is allreduced."""
    layout, wanted, mesh = parameter.layout, target(parameter), parameter.mesh
    cuts = [cut.axes[len(whole.axes) :] for cut, whole in zip(wanted.cuts, layout.cuts, strict=True)]
    scattered = tuple(axis for axes in cuts for axis in axes)
    owed = [axis for axis in mesh.grid.axes if axis in layout.dual.partial and axis not in scattered]
    return scattered, tuple(axis for axis in owed if mesh.shape[axis] > 1)


def buckets(parameters: Sequence[Tensor], most: int = BUCKET_BYTES) -> list[Bucket]:
    """The buckets of these parameters: those they are in already, or new ones of at most so many bytes.

    In the order in which a backward completes them, as far as the order of the parameters tells: the last come
    first. It is the same on all ranks.
    """
    homes: list[Bucket] = list(dict.fromkeys(parameter.leaf.home for parameter in reversed(parameters)))
    if None in homes or sum(len(home.parameters) for home in homes) != len(parameters):
        homes = [Bucket(group) for group in groups(parameters, most)]
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    return sorted(homes, key=lambda home: -min(places[id(p)] for p in home.parameters))


def groups(parameters: Sequence[Tensor], most: int) -> Iterable[list[Tensor]]:
    """Parameters of one kind, the last first, in parts of at most `most` bytes."""
    kinds: dict[object, list[Tensor]] = {}
    for parameter in reversed(parameters):
        kinds.setdefault(_kind(parameter), []).append(parameter)
    for group in kinds.values():
        part: list[Tensor] = []
        held = 0
        for parameter in group:
            held += _bytes(parameter)
            if part and held > most:
                yield part
                part, held = [], _bytes(parameter)
            part.append(parameter)
        yield part


def _kind(parameter: Tensor) -> object:
    """What the parameters of one bucket have in common."""
    leaf = parameter.leaf
    owed = parameter.layout.dual.partial
    return id(parameter.mesh), str(parameter.dtype), owed, moves(parameter), leaf.keeps_pieces


def _bytes(parameter: Tensor) -> int:
    """Of the largest gradient that a rank holds: the same on all ranks."""
    longest = [max(stop - start for start, stop in pairwise(cut.offsets)) for cut in parameter.layout.cuts]
    itemsize: int = parameter.mesh.xp.widen(parameter.local).dtype.itemsize
    return prod(longest) * itemsize
