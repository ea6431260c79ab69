"""Every placement that a function takes, found by asking it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import TypeAlias

from mpipar.errors import PlacementError
from mpipar.layout import Layout, Partial, Placement, Replicate, Shard
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, no_grad
from mpipar.testing.values import spread

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
    axes = mesh.grid.named if axes is None else tuple(axes)
    asked = _Asked(f, inputs)
    alone = [list(product(*([{axis: p} for p in placements_of(x.ndim)] for x in inputs))) for axis in axes]
    if asked.takes(tuple(dict.fromkeys(axes, Replicate()) for _ in inputs)):
        alone = [[c for c in combinations if asked.takes(c)] for combinations in alone]
    for parts in product(*alone):
        joined = [{axis: p for part in parts for axis, p in part[k].items()} for k in range(len(inputs))]
        options = [cut_orders(mesh, x.shape, p) for x, p in zip(inputs, joined, strict=True)]
        yield from (c for c in product(*options) if asked.takes(c))


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


class _Asked:
    """f, and its inputs as whole values, spread in any way that is asked for."""

    def __init__(self, f: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self.f, self.mesh = f, inputs[0].mesh
        self.wholes = [x.numpy() for x in inputs]
        self.made: dict[tuple[int, tuple[tuple[str, Placement], ...]], Tensor] = {}

    def takes(self, combination: Combination) -> bool:
        tensors = [self._spread(k, placements) for k, placements in enumerate(combination)]
        try:
            with no_grad():
                self.f(*tensors)
        except PlacementError:
            return False
        return True

    def _spread(self, k: int, placements: Placements) -> Tensor:
        key = k, tuple(placements.items())
        if key not in self.made:
            self.made[key] = spread(self.wholes[k], self.mesh, placements, f"input {k}")
        return self.made[key]
