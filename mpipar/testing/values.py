"""Legal representations of random values: what a tensor of a layout may hold on each rank.

The whole value is a function of a name and of the global index, so it is the same on every mesh. Where it is Partial
every rank holds a term of its own, which shows what the first rank's value among zeros would hide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from mpipar.backend import Array, DType
from mpipar.job import world
from mpipar.layout import Layout, Partial, Placement
from mpipar.mesh import Mesh
from mpipar.random import key
from mpipar.tensor import Tensor, tensor
from mpipar.tensor.tape import Leaf


def represented(mesh: Mesh, layout: Layout, name: str, dtype: DType = "float64") -> Array:
    """My part of the random value `name`, between -1 and 1, in random terms where it is Partial."""
    first = _term_number(mesh, layout)[0] == 0
    shape = layout.local_shape(mesh.coords)
    base = _drawn(mesh, layout, dtype, name) if first else mesh.xp.zeros(shape, dtype)
    return _in_terms(mesh, layout, base, name)


def spread(whole: Any, mesh: Mesh, placements: Mapping[str, Placement], name: str = "") -> Tensor:
    """A leaf with a global value that every rank has; in random terms where it is Partial. Integers are no leaf."""
    named: dict[str, Any] = dict(placements)
    x = tensor(whole, mesh, name=name, **named)
    return leaf(_in_terms(mesh, x.layout, x.local, name), mesh, x.layout, name) if x.is_floating else x


class Whole:
    """A global value, spread in any way that is asked for; each way is made once. Making it is collective."""

    def __init__(self, x: Tensor, name: str) -> None:
        self.array, self.name = x.numpy(), name
        self._made: dict[tuple[Mesh, tuple[tuple[str, Placement], ...]], Tensor] = {}

    def on(self, mesh: Mesh, placements: Mapping[str, Placement]) -> Tensor:
        """A leaf without a gradient."""
        key = mesh, tuple(placements.items())
        if key not in self._made:
            self._made[key] = spread(self.array, mesh, placements, self.name)
        x = self._made[key]
        return leaf(x.local, mesh, x.layout, x.name) if x.is_floating else x


def wholes_of(inputs: Sequence[Tensor]) -> list[Whole]:
    """The global values of inputs. Collective."""
    return [Whole(x, x.name or f"input {k}") for k, x in enumerate(inputs)]


def leaf(local: Array, mesh: Mesh, layout: Layout, name: str = "") -> Tensor:
    """A Tensor at which a gradient arrives."""
    return Tensor(local, mesh, layout, name=name, node=Leaf(mesh.xp, layout.dual, name, tuple(local.shape)))


def placed_as(layout: Layout) -> dict[str, Placement]:
    """The placements that are not Replicate, in an order that makes these cuts again."""
    cuts: dict[str, Placement] = {axis: layout.placement(axis) for cut in layout.cuts for axis in cut.axes}
    return cuts | dict.fromkeys(sorted(layout.partial), Partial())


def serial_mesh(mesh: Mesh) -> Mesh:
    """The mesh of this rank alone, with the same axes, on the same device."""
    sizes: dict[str, Any] = dict.fromkeys(mesh.grid.named, 1)
    return Mesh(ranks=[world().rank], device=mesh.xp, **sizes)


def _drawn(mesh: Mesh, layout: Layout, dtype: DType, *parts: str) -> Array:
    pieces = [layout.piece(dim, mesh.coords) for dim in range(layout.ndim)]
    index = [mesh.xp.arange(piece.start, piece.stop) for piece in pieces]
    return mesh.xp.cast(mesh.xp.uniform(key(0, "testing", *parts), index, dtype) * 2 - 1, dtype)


def _in_terms(mesh: Mesh, layout: Layout, local: Array, name: str) -> Array:
    """With noise added that sums to zero over the Partial axes."""
    number, count = _term_number(mesh, layout)
    if count == 1:
        return local
    mine, other = (_drawn(mesh, layout, local.dtype, name, f"term {k % count}") for k in (number, number + 1))
    return mesh.xp.cast(local + (mine - other), local.dtype)


def _term_number(mesh: Mesh, layout: Layout) -> tuple[int, int]:
    """Which of the terms this rank holds, and how many there are."""
    axes = [axis for axis in mesh.grid.axes if axis in layout.partial]
    return mesh.grid.number(axes, mesh.coords), prod(mesh.shape[axis] for axis in axes)
