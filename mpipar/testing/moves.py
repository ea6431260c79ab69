"""The law of the moves: a move keeps the value, its vjp is its transpose, and the way back leads back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from mpipar.errors import PlacementError
from mpipar.layout import Layout, Placement
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor
from mpipar.tensor.moves import planned
from mpipar.testing.findings import Findings
from mpipar.testing.grads import abs_sum, sum_of
from mpipar.testing.placements import cut_orders, placements_of
from mpipar.testing.values import leaf, represented

VALUE = "moved"


def check_moves(
    mesh: Mesh, shape: tuple[int, ...], *, axes: Sequence[str] | None = None, rtol: float = 1e-13
) -> int:
    """Raises AssertionError unless every move of a float64 tensor is right, from every layout, on each of `axes`.

    A move must keep the value, pass the dot test ⟨A x, g⟩ = ⟨x, Aᵀ g⟩ over ranks with the move of the gradient, lead
    back by the move back, and be refused where the axis is not the innermost cut of its dim. Returns the number of
    moves made. `axes` are those that the mesh names, by default. Collective.

    >>> import mpipar as mp
    >>> check_moves(mp.Mesh(ranks=[0], tp=1), (5, 3))
    12
    """
    axes = mesh.grid.named if axes is None else tuple(axes)
    findings, made = Findings(mesh), 0
    whole = mesh.xp.to_host(represented(mesh, Layout.make(mesh.grid, shape, {}), VALUE))
    for layout in layouts_of(mesh, shape, axes):
        local = represented(mesh, layout, VALUE)
        for axis, to in product(axes, placements_of(len(shape))):
            made += _check_move(findings, leaf(local, mesh, layout, "x"), axis, to, whole)
    findings.settle(f"check_moves of {shape}", rtol)
    return made


def layouts_of(mesh: Mesh, shape: tuple[int, ...], axes: Sequence[str]) -> Iterator[Layout]:
    """Every layout of a tensor, axes not named being Replicate."""
    for chosen in product(placements_of(len(shape)), repeat=len(axes)):
        for placements in cut_orders(mesh, shape, dict(zip(axes, chosen, strict=True))):
            yield Layout.make(mesh.grid, shape, placements)


def _check_move(findings: Findings, x: Tensor, axis: str, to: Placement, whole: Any) -> bool:
    """Whether something was moved: not where it was refused."""
    layout, source = x.layout, x.layout.placement(axis)
    what = f"{layout} {axis}={source} to {to}"
    try:
        y = x.redistribute(**{axis: to})
    except PlacementError as error:
        findings.expect(not _is_innermost(layout, axis), f"{what}: refused: {error}")
        return False
    if source == to:
        findings.expect(y is x, f"{what}: no identity")
        return False
    findings.expect(_is_innermost(layout, axis), f"{what}: the outer cut was moved")
    findings.expect(y.layout.placement(axis) == to, f"{what}: arrived at {y.layout}")
    findings.value(what, y, whole)
    back = planned(y, (axis,), source).after
    findings.expect(back == layout, f"{what} and back: arrives at {back}")
    _dot(findings, what, x, y)
    return True


def _dot(findings: Findings, what: str, x: Tensor, y: Tensor) -> None:
    mesh = findings.mesh
    g = represented(mesh, y.layout.dual, "gradient")
    y.backward(Tensor(g, mesh, y.layout.dual))
    assert x.grad is not None
    left, right = sum_of(mesh, y.local * g), sum_of(mesh, x.local * x.grad.local)
    findings.dot(f"{what}: dot test", left, right, abs_sum(mesh, y.local * g))


def _is_innermost(layout: Layout, axis: str) -> bool:
    dim = layout.cut_dims.get(axis)
    return dim is None or layout.cuts[dim].axes[-1] == axis
