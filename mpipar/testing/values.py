"""Legal representations of random values: what a tensor of a layout may hold on each rank.

The whole value is a function of a name and of the global index, so it is the same on every mesh. Where it is Partial
every rank holds a term of its own, which shows what the first rank's value among zeros would hide.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """My part of the random value `name`, normal with standard deviation 1, in random terms where it is Partial."""
    drawn = _drawn(mesh, layout, dtype, name)
    base = drawn if _term_number(mesh, layout)[0] == 0 else mesh.xp.zeros(drawn.shape, dtype)
    return mesh.xp.cast(base + noise(mesh, layout, name, dtype), dtype)


def noise(mesh: Mesh, layout: Layout, name: str, dtype: DType = "float64") -> Array | float:
    """Terms that sum to zero over the Partial axes."""
    number, count = _term_number(mesh, layout)
    if count == 1:
        return 0.0
    mine, next_one = (_drawn(mesh, layout, dtype, name, f"term {k % count}") for k in (number, number + 1))
    return mine - next_one


def spread(whole: Any, mesh: Mesh, placements: Mapping[str, Placement], name: str = "") -> Tensor:
    """A leaf with a global value that every rank has; in random terms where it is Partial. Integers are no leaf."""
    named: dict[str, Any] = dict(placements)
    x = tensor(whole, mesh, name=name, **named)
    if not x.is_floating:
        return x
    local = mesh.xp.cast(x.local + noise(mesh, x.layout, name, x.dtype), x.dtype)
    return leaf(local, mesh, x.layout, name)


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
    return mesh.xp.normal(key(0, "testing", *parts), index, dtype)


def _term_number(mesh: Mesh, layout: Layout) -> tuple[int, int]:
    """Which of the terms this rank holds, and how many there are."""
    axes = [axis for axis in mesh.grid.axes if axis in layout.partial]
    return mesh.grid.number(axes, mesh.coords), prod(mesh.shape[axis] for axis in axes)
