"""Weights in every layout, and gradients for them whose whole values every rank knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpipar import Mesh, Tensor, parameter
from mpipar.backend import DType
from mpipar.layout import Layout, Placement
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import placed_as, represented

Shape = tuple[int, ...]


def every_layout(mesh: Mesh, shape: Shape) -> list[dict[str, Placement]]:
    """The placements that a weight may have: Replicate or Shard on each axis, two cuts of a dim in both orders."""
    layouts = layouts_of(mesh, shape, mesh.grid.named)
    return [placed_as(layout) for layout in layouts if not layout.partial]


def weight(name: str, shape: Shape, mesh: Mesh, dtype: DType = "float64", **placements: Placement) -> Tensor:
    return parameter(name, shape, mesh, std=1.0, dtype=dtype, **placements)


def send_gradient(p: Tensor, name: str) -> None:
    """Adds the random gradient `name` as a backward would: every rank a term of its own where a sum is owed."""
    dual = p.layout.dual
    p.backward(Tensor(represented(p.mesh, dual, name, p.dtype), p.mesh, dual))


def whole_gradient(p: Tensor, name: str) -> Any:
    """The whole of that gradient, as NumPy."""
    mesh = p.mesh
    return mesh.xp.to_host(represented(mesh, Layout.make(mesh.grid, p.shape, {}), name, p.dtype))


def local_bytes(tensors: Sequence[Tensor | None]) -> list[bytes]:
    """My pieces bit by bit; empty where there is no tensor."""
    return [b"" if x is None else x.mesh.xp.to_host(x.local).tobytes() for x in tensors]
