"""The moves: what changes a placement, and the only operations of a Tensor that communicate.

One table, from what is held to what is wanted. The vjp of a move is the move from the dual of its target to the
dual of its source, so the table is its own derivative.

Several axes may move at once (`axes`, outermost first): then they act as one axis, the product of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mpipar.backend import Array
from mpipar.blocks import offsets
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Misfit, Partial, Placement, Replicate, Shard
from mpipar.layout.layout import shared
from mpipar.tensor.advice import advice
from mpipar.tensor.apply import keep, recorded

if TYPE_CHECKING:
    from mpipar.mesh import Mesh
    from mpipar.tensor.tensor import Tensor


@dataclass(frozen=True)
class Move:
    """One move as each rank sees it: the layouts before and after, and the axes."""

    mesh: Mesh
    axes: tuple[str, ...]
    before: Layout
    after: Layout

    @property
    def source(self) -> Placement:
        return self.before.placement(self.axes[0])

    @property
    def target(self) -> Placement:
        return self.after.placement(self.axes[0])

    @property
    def back(self) -> Move:
        """The move of the gradient."""
        return Move(self.mesh, self.axes, self.after.dual, self.before.dual)

    def sizes(self, layout: Layout, dim: int) -> tuple[int, ...]:
        """The lengths of the pieces of the axes along `dim` in that layout, within my outer piece."""
        return layout.sizes(self.axes, dim, self.mesh.coords)

    def run(self, x: Array) -> Array:
        """The local array after the move; the identity where the axes have one rank."""
        if self.mesh.comm(*self.axes).size == 1 or self.source == self.target:
            return x
        return TABLE[type(self.source), type(self.target)](self, x)


def allreduce(move: Move, x: Array) -> Array:
    return move.mesh.comm(*move.axes).allreduce(x)


def allgather(move: Move, x: Array) -> Array:
    dim = _dim(move.source)
    return move.mesh.comm(*move.axes).allgather(x, dim, move.sizes(move.before, dim))


def reduce_scatter(move: Move, x: Array) -> Array:
    dim = _dim(move.target)
    return move.mesh.comm(*move.axes).reduce_scatter(x, dim, move.sizes(move.after, dim))


def alltoall(move: Move, x: Array) -> Array:
    here, there = _dim(move.source), _dim(move.target)
    comm = move.mesh.comm(*move.axes)
    return comm.alltoall(x, there, here, move.sizes(move.after, there), move.sizes(move.before, here))


def my_slice(move: Move, x: Array) -> Array:
    """Local: a view of my piece."""
    dim = _dim(move.target)
    starts = offsets(move.sizes(move.after, dim))
    rank = move.mesh.comm(*move.axes).rank
    return x[(*(slice(None),) * dim, slice(starts[rank], starts[rank + 1]))]


def zero_padded(move: Move, x: Array) -> Array:
    """Local: my piece among zeros."""
    dim = _dim(move.source)
    starts = offsets(move.sizes(move.before, dim))
    rank = move.mesh.comm(*move.axes).rank
    out = move.mesh.xp.zeros((*x.shape[:dim], starts[-1], *x.shape[dim + 1 :]), x.dtype)
    out[(*(slice(None),) * dim, slice(starts[rank], starts[rank + 1]))] = x
    return out


def kept_on_first(move: Move, x: Array) -> Array:
    """Local: the value on the first rank, zeros elsewhere."""
    return x if move.mesh.comm(*move.axes).rank == 0 else move.mesh.xp.zeros(x.shape, x.dtype)


Carrier: TypeAlias = Callable[[Move, Array], Array]

TABLE: dict[tuple[type[Placement], type[Placement]], Carrier] = {
    (Partial, Replicate): allreduce,
    (Partial, Shard): reduce_scatter,
    (Shard, Replicate): allgather,
    (Shard, Shard): alltoall,
    (Replicate, Shard): my_slice,
    (Shard, Partial): zero_padded,
    (Replicate, Partial): kept_on_first,
}


def moved(x: Tensor, axes: Sequence[str], to: Placement) -> Tensor:
    """The tensor with another placement on the axes, and its place on the tape."""
    move = planned(x, tuple(axes), to)
    local = move.run(x.local)
    return recorded(x, local, move.after, "move", (x,), (move.back.run,))


def planned(x: Tensor, axes: tuple[str, ...], to: Placement) -> Move:
    """The move, with the axes outermost first. Raises PlacementError where a cut is not the innermost."""
    key = (Move, x.layout, axes, to)
    found: tuple[tuple[str, ...], Layout] | None = x.mesh.plans.get(key)
    if found is None:
        keep(x.mesh, key, found := _axes_and_end(x, axes, to))
    return Move(x.mesh, found[0], x.layout, found[1])


def _axes_and_end(x: Tensor, axes: tuple[str, ...], to: Placement) -> tuple[tuple[str, ...], Layout]:
    before = x.layout
    try:
        sources = {before.placement(axis) for axis in axes}
        if len(sources) > 1:
            raise Misfit(f"the axes {', '.join(axes)} have different placements; move one after the other")
        axes = in_cut_order(before, axes)
        after = before
        for axis in reversed(axes):
            after = after.placed(axis, Replicate())
        for axis in axes:
            after = after.placed(axis, to)
    except Misfit as misfit:
        name = repr(x.name) if x.name else "x"
        write = [f"\n  Write  {advice(x, name, fix)}  first" for fix in misfit.fixes]
        raise PlacementError(
            f"move of {name} {before} to {to} on {', '.join(axes)}:\n  {misfit.reason}.{''.join(write)}"
        ) from None
    return axes, shared(after)


def in_cut_order(layout: Layout, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Axes that cut the same dim in the order of the cuts; others as they are named."""
    dim = layout.cut_dims.get(axes[0])
    if dim is None or len(axes) == 1:
        return axes
    return tuple(sorted(axes, key=layout.cuts[dim].axes.index))


def _dim(placement: Placement) -> int:
    assert isinstance(placement, Shard), placement
    return placement.dim
