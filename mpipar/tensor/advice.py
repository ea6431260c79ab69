"""The line to write, and its price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from mpipar.layout import Layout, Partial, Placement, Replicate, Shard, move_bytes
from mpipar.layout.layout import Fix, Recut
from mpipar.log.words import human_bytes

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor

Step: TypeAlias = tuple[tuple[str, ...], Placement]  # axes that move together, and to what


def advice(x: Tensor, name: str, fix: Fix | Recut) -> str:
    """``x.allgather("tp")  (6.3 MB from this rank)``: moves that are made one after the other, and what they send."""
    layout, line, sent, local = x.layout, name.strip("'"), 0, True
    for axes, to in _steps(layout, fix):
        source = layout.placement(axes[0])
        line += "." + _spelled(source, axes, to)
        sent += max(move_bytes(layout, axis, to, x.mesh.coords, x.dtype.itemsize) for axis in axes)
        local = local and (isinstance(source, Replicate) or isinstance(to, Partial))
        layout = _after(layout, axes, to)
    return f"{line}  ({'local, moves nothing' if local else f'{human_bytes(sent)} from this rank'})"


def _steps(layout: Layout, fix: Fix | Recut) -> Sequence[Step]:
    if isinstance(fix, Recut):
        gathered = layout.cuts[fix.dim].axes
        return [(gathered, Replicate()), *(((axis,), Shard(fix.dim)) for axis in fix.axes)]
    inner = _inner_axes(layout, fix.axis)
    if fix.to == Replicate():
        return [((fix.axis, *inner), Replicate())]
    return [*([(inner, Replicate())] if inner else []), ((fix.axis,), fix.to)]


def _inner_axes(layout: Layout, axis: str) -> tuple[str, ...]:
    """The axes that cut the same dim further inside."""
    dim = layout.cut_dims.get(axis)
    axes = () if dim is None else layout.cuts[dim].axes
    return axes[axes.index(axis) + 1 :] if axes else ()


def _spelled(source: Placement, axes: tuple[str, ...], to: Placement) -> str:
    """The move as a person would write it."""
    named = ", ".join(f'"{axis}"' for axis in axes)
    match source, to:
        case Partial(), Replicate():
            return f"allreduce({named})"
        case Shard(), Replicate():
            return f"allgather({named})"
        case Partial(), Shard(dim):
            return f"reduce_scatter({named}, dim={dim})"
        case Shard(), Shard(dim):
            return f"alltoall({named}, dim={dim})"
    return f"redistribute({axes[0]}={to})"


def _after(layout: Layout, axes: tuple[str, ...], to: Placement) -> Layout:
    for axis in reversed(axes):
        layout = layout.placed(axis, to)
    return layout
