"""Where the pieces of a tensor are: placements, ordered cuts, the rules of operations. Knows no array and no MPI."""

from __future__ import annotations

from mpipar.layout.cost import move_bytes
from mpipar.layout.layout import Cut, Grid, Layout, Misfit
from mpipar.layout.placement import Partial, Placement, Replicate, Shard, dual

__all__ = [
    "Cut", "Grid", "Layout", "Misfit", "Partial", "Placement", "Replicate", "Shard", "dual", "move_bytes",
]  # fmt: skip
