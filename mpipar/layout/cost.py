"""What a move costs, before it is made: the bytes that the ledger will show."""

from __future__ import annotations

from math import prod

from mpipar.layout.layout import Layout
from mpipar.layout.placement import Partial, Placement, Replicate, Shard


def move_bytes(layout: Layout, axis: str, to: Placement, coords: tuple[int, ...], itemsize: int) -> int:
    """Bytes of this rank that some other rank of the axis needs for the move; 0 for a local move."""
    source = layout.placement(axis)
    if layout.grid.size(axis) == 1 or source == to:
        return 0
    here = prod(layout.local_shape(coords)) * itemsize
    match source, to:
        case (Partial() | Shard(), Replicate()):
            return here
        case (Partial() | Shard(), Shard(dim)):
            length = len(layout.piece(dim, coords))
            kept = len(layout.placed(axis, to).piece(dim, coords))
            return here // length * (length - kept) if length else 0
    return 0
