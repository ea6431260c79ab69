"""Boxes of global indices: which part of a tensor a rank writes, and how stored parts meet the part that it needs.

The slices of a stored tensor form a grid: each cut goes through the whole tensor. That they fill it without overlap is
then a matter of counting.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

from mpipar.blocks import balanced, offsets
from mpipar.layout import Layout

SPREAD = 1 << 16  # bytes: replicas share the rows of a piece where each gets at least so much


class Box(NamedTuple):
    """The indices from `start` to `stop` (exclusive), dim by dim."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    def overlap(self, other: Box) -> Box | None:
        """What both hold; None where that is nothing."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def within(self, outer: Box) -> Box:
        """This box, counted from the start of another."""
        return self.shifted((0,) * len(self.start), outer.start)

    def shifted(self, theirs: tuple[int, ...], mine: tuple[int, ...]) -> Box:
        """This box, counted from `theirs`, counted from `mine`."""
        shift = [a - b for a, b in zip(theirs, mine, strict=True)]
        return Box(
            tuple(x + by for x, by in zip(self.start, shift, strict=True)),
            tuple(x + by for x, by in zip(self.stop, shift, strict=True)),
        )

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))


def whole(shape: Sequence[int]) -> Box:
    return Box((0,) * len(shape), tuple(shape))


def held(layout: Layout, coords: Sequence[int]) -> Box:
    """What a rank holds of a tensor."""
    pieces = [layout.piece(dim, coords) for dim in range(layout.ndim)]
    return Box(tuple(piece.start for piece in pieces), tuple(piece.stop for piece in pieces))


def written(layout: Layout, coords: Sequence[int], name: str, itemsize: int) -> Box | None:
    """What a rank writes of it: of the ranks that hold the same piece each a share of its rows, or one of them all.

    None where that is nothing.
    """
    piece = held(layout, coords)
    axes = [axis for axis in layout.grid.axes if axis not in layout.cut_dims]
    replicas = prod(layout.grid.size(axis) for axis in axes)
    mine = layout.grid.number(axes, coords)
    if 0 in piece.shape:
        return None
    if not _shares(layout, replicas, itemsize):
        return piece if mine == zlib.crc32(name.encode()) % replicas else None
    first = offsets(balanced(piece.stop[0] - piece.start[0], replicas))
    rows = piece.start[0] + first[mine], piece.start[0] + first[mine + 1]
    return Box((rows[0], *piece.start[1:]), (rows[1], *piece.stop[1:]))


def _shares(layout: Layout, replicas: int, itemsize: int) -> bool:
    """Decided by what all ranks know, so that the slices form a grid."""
    if replicas == 1 or not layout.ndim:
        return False
    pieces = prod(len(cut.offsets) - 1 for cut in layout.cuts)
    rows = min(stop - start for start, stop in pairwise(layout.cuts[0].offsets))
    return rows >= replicas and prod(layout.shape) * itemsize // pieces >= SPREAD * replicas


def misfit(boxes: Sequence[Box], shape: Sequence[int]) -> str:
    """Why these boxes are no grid that fills the shape; empty where they are."""
    if 0 in shape:
        return "there are slices of a tensor without elements" if boxes else ""
    count = 1
    for dim, length in enumerate(shape):
        intervals = sorted({(box.start[dim], box.stop[dim]) for box in boxes})
        count *= len(intervals)
        reached = 0
        for start, stop in intervals:
            if start != reached:
                kind = "overlap" if start < reached else "are missing"
                return f"slices {kind} in dim {dim} at {min(start, reached)}"
            reached = stop
        if reached != length:
            return f"slices are missing in dim {dim} at {reached}"
    if len(set(boxes)) != len(boxes):
        return "a slice is there twice"
    return "" if len(boxes) == count else f"{count} slices are wanted, there are {len(boxes)}"
