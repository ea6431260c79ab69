"""ZeRO over data-parallel ranks, as changes of placement. Rajbhandari et al. 2020.

1: the gradient's target is cut over the ranks, so each updates a piece of every weight and keeps the optimizer's state
of that piece; the weights are gathered after the update. 2: gradients do not stay whole between micro-batches either.
3: the weights themselves are cut. A module's weights are gathered when it is called and again before its backward,
and the transpose of that gather is the reduce_scatter of their gradients (`gathered.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from mpipar.backend import DType
from mpipar.errors import UsageError
from mpipar.layout import Layout, Replicate, Shard
from mpipar.layout.layout import shared
from mpipar.nn.module import Module
from mpipar.nn.pieces import piece_index
from mpipar.parallel.gathered import gather_at_use
from mpipar.parallel.pipeline import Pipeline
from mpipar.tensor import Tensor
from mpipar.tensor.create import each_leaf
from mpipar.tensor.tape import Leaf

M = TypeVar("M", bound=Module)
STAGES = (0, 1, 2, 3)


def sharded(
    make: Callable[[], M], stage: int, axes: str | tuple[str, ...] = "dp", *, wire: DType | None = None
) -> M:
    """The model that `make` makes, under ZeRO over the axes. Make the optimizer after it, of ``model.parameters()``.

    Over the other axes on which the batch is cut the pieces are Replicate (hybrid: cut within a node, the same on all).
    At stage 3 no rank holds a whole model at any time. `wire`: the dtype in which its gradients travel; at the other
    stages it is that of `sync_gradients`. A parameter without dims stays whole.
    """
    axes = (axes,) if isinstance(axes, str) else axes
    if stage not in STAGES:
        raise UsageError(f"ZeRO stage {stage!r}: write 0, 1, 2 or 3")
    if stage == 3:
        return shard_parameters(make, axes, wire)
    model = make()
    if stage:
        shard_updates(model.parameters(), axes, gradients=stage == 2)
    return model


def shard_updates(parameters: Sequence[Tensor], axes: tuple[str, ...], *, gradients: bool) -> None:
    """Stages 1 and 2: each rank of the axes updates a piece of every parameter, and has the optimizer's state of it.

    `gradients`: between the micro-batches of a step, too, it keeps no more than that piece of the gradient (2).
    """
    for parameter in parameters:
        leaf, layout = parameter.leaf, cut(parameter.layout, axes)
        if layout != parameter.layout:
            leaf.target, leaf.keeps_pieces, leaf.home = layout, gradients, None


def shard_parameters(make: Callable[[], M], axes: tuple[str, ...], wire: DType | None = None) -> M:
    """Stage 3: every weight is cut as soon as it is made, and gathered where its module is called."""
    with each_leaf(lambda parameter: cut_weight(parameter, axes)):
        model = make()
    gather_at_use(called(model), axes, wire)
    return model


def called(model: Module) -> list[Module]:
    """What has units: the model, of a pipeline its stages."""
    stages = model.stages.values() if isinstance(model, Pipeline) else [model]
    return [stage for stage in stages if isinstance(stage, Module)]


def cut_weight(parameter: Tensor, axes: tuple[str, ...]) -> Tensor:
    """A parameter of which this rank keeps its piece."""
    mesh, layout = parameter.mesh, cut(parameter.layout, axes)
    if layout == parameter.layout:
        return parameter
    local = mesh.xp.copy(parameter.local[piece_index(parameter.layout, layout, mesh.coords)])
    leaf = Leaf(mesh.xp, layout.dual, parameter.name, tuple(local.shape))
    return Tensor(local, mesh, layout, name=parameter.name, node=leaf)


def cut(layout: Layout, axes: tuple[str, ...]) -> Layout:
    """The layout with the axes as the innermost cut of one dim; as it is where it has no dim or uses one of them."""
    if not layout.ndim or any(layout.placement(axis) != Replicate() for axis in axes):
        return layout
    ranks = 1
    for axis in axes:
        ranks *= layout.grid.size(axis)
    dim = cut_dim(layout, ranks)
    for axis in axes:
        layout = layout.placed(axis, Shard(dim))
    return shared(layout)


def cut_dim(layout: Layout, ranks: int) -> int:
    """The first dim of which every rank gets a row or more, else the longest. The same on all ranks.

    >>> from mpipar import Mesh
    >>> grid = Mesh(ranks=[0]).grid
    >>> [cut_dim(Layout.make(grid, shape, {}), 4) for shape in ((8, 3), (3, 8), (2, 3))]
    [0, 1, 1]
    """
    shortest = [min(stop - start for start, stop in pairwise(each.offsets)) for each in layout.cuts]
    for dim, length in enumerate(shortest):
        if length >= ranks:
            return dim
    return shortest.index(max(shortest))
