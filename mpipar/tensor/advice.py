"""The line to write, and its price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpipar.layout import Misfit, Partial, Placement, Replicate, Shard, move_bytes
from mpipar.layout.layout import Fix
from mpipar.log.words import human_bytes

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor


def advice(x: Tensor, name: str, fix: Fix) -> str:
    """``x.allgather("tp")  (6.3 MB from each rank)``."""
    return f"{spelled(x, name.strip(chr(39)), fix)}  ({price(x, fix)})"


def spelled(x: Tensor, name: str, fix: Fix) -> str:
    """The move as a person would write it."""
    match x.layout.placement(fix.axis), fix.to:
        case Partial(), Replicate():
            return f'{name}.allreduce("{fix.axis}")'
        case Shard(), Replicate():
            return f'{name}.allgather("{fix.axis}")'
        case Partial(), Shard(dim):
            return f'{name}.reduce_scatter("{fix.axis}", dim={dim})'
        case Shard(), Shard(dim):
            return f'{name}.alltoall("{fix.axis}", dim={dim})'
    return f"{name}.redistribute({fix.axis}={fix.to})"


def price(x: Tensor, fix: Fix) -> str:
    """The bytes that this rank would send."""
    source: Placement = x.layout.placement(fix.axis)
    if isinstance(source, Replicate) or isinstance(fix.to, Partial):
        return "local, moves nothing"
    try:
        sent = move_bytes(x.layout, fix.axis, fix.to, x.mesh.coords, x.dtype.itemsize)
    except Misfit:
        return "after the inner cuts"
    return f"{human_bytes(sent)} from this rank"
