"""Every placement that a function takes, found by asking it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import TypeAlias

from mpipar.errors import PlacementError
from mpipar.layout import Layout, Partial, Placement, Replicate, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, no_grad
from mpipar.testing.values import Whole, wholes_of

Placements: TypeAlias = dict[str, Placement]  # by axis; the order is the order of the cuts
Combination: TypeAlias = tuple[Placements, ...]  # one an input


def legal_placements(
    f: Callable[..., Tensor], *inputs: Tensor, axes: Sequence[str] | None = None
) -> Iterator[Combination]:
    """Every combination of placements of the inputs on `axes` (default: those that the mesh names) that f takes.

    Tried are Replicate, Partial and Shard of every dim, on each axis, for each input, two cuts of one dim in both
    orders; where f raises PlacementError a combination is not legal. The inputs' own placements do not matter.
    The layout rules judge each axis by itself, so where f takes whole inputs, only what each axis takes alone is
    combined; otherwise everything is. Collective.

    >>> import mpipar as mp
    >>> x = mp.ones((2, 3), mp.Mesh(ranks=[0], tp=1))
    >>> for combination in legal_placements(lambda x: x.softmax(1), x):
    ...     print(combination)
    ({'tp': Replicate()},)
    ({'tp': Shard(0)},)
    """
    mesh = inputs[0].mesh
    yield from legal_among(f, wholes_of(inputs), mesh, mesh.grid.named if axes is None else tuple(axes))


def legal_among(
    f: Callable[..., Tensor], wholes: Sequence[Whole], mesh: Mesh, axes: Sequence[str]
) -> Iterator[Combination]:
    """`legal_placements` of values."""

    def is_legal(combination: Combination) -> bool:
        return _takes(
            f, [whole.on(mesh, placements) for whole, placements in zip(wholes, combination, strict=True)]
        )

    shapes = [whole.array.shape for whole in wholes]
    alone = [
        list(product(*([{axis: p} for p in placements_of(len(shape))] for shape in shapes))) for axis in axes
    ]
    if is_legal(tuple(dict.fromkeys(axes, Replicate()) for _ in wholes)):
        alone = [[c for c in combinations if is_legal(c)] for combinations in alone]
    for parts in product(*alone):
        joined = [{axis: p for part in parts for axis, p in part[k].items()} for k in range(len(wholes))]
        options = [cut_orders(mesh, shape, p) for shape, p in zip(shapes, joined, strict=True)]
        yield from (c for c in product(*options) if is_legal(c))


def placements_of(ndim: int) -> list[Placement]:
    """Every placement of a tensor of so many dims on one axis."""
    return [Replicate(), Partial(), *(Shard(dim) for dim in range(ndim))]


def cut_orders(mesh: Mesh, shape: tuple[int, ...], placements: Placements) -> list[Placements]:
    """The same placements in each order of axes that gives another layout."""
    orders = ({axis: placements[axis] for axis in order} for order in permutations(placements))
    found: dict[Layout, Placements] = {}
    for order in orders:
        found.setdefault(Layout.make(mesh.grid, shape, order), order)
    return list(found.values())


def _takes(f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> bool:
    try:
        with no_grad():
            f(*inputs)
    except PlacementError:
        return False
    return True
