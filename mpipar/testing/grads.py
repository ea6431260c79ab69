"""Gradients against numerical ones, and the dot test over ranks.

Both are one equation. Let J be the derivative of f and every rank's arrays be variables of their own:
Σ_ranks ⟨J dx, g⟩ = Σ_ranks ⟨dx, vjp g⟩ for every dx that is legal for the inputs and every g that is legal for the
gradient of the output. J dx comes from central differences, vjp g from the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import TypeAlias

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.mesh import Mesh
from mpipar.tensor import Tensor, no_grad
from mpipar.testing.findings import Findings
from mpipar.testing.values import leaf, represented

STEP = 1e-5  # of the central difference: its own error is about STEP² and 1e-16 / STEP


def check_grads(
    f: Callable[..., Tensor], *inputs: Tensor, rtol: float = 1e-6, directions: int = 2, elements: int = 24
) -> None:
    """Raises AssertionError unless the gradients of ``f(*inputs)`` are those of central differences, on any mesh.

    Checked along random `directions` in all inputs at once (the dot test over ranks, which catches an operation
    that sums its own gradient over ranks) and for each element of inputs with at most that many `elements`. Inputs are
    float64, or integers that need no gradient; f is called often and must return one Tensor, the same each time.
    Collective: call it on all ranks of the mesh.

    >>> import mpipar as mp
    >>> mesh = mp.Mesh(ranks=[0])
    >>> x = mp.randn("x", (3, 4), mesh, dtype="float64", tp=mp.Shard(1))
    >>> w = mp.randn("w", (4, 2), mesh, dtype="float64", tp=mp.Shard(0))
    >>> check_grads(lambda x, w: (x @ w).allreduce("tp").tanh(), x, w)
    """
    _check_dtypes(inputs)
    mesh = inputs[0].mesh
    findings = Findings(mesh)
    leaves = [leaf(x.local, mesh, x.layout, x.name) if x.is_floating else x for x in inputs]
    y = f(*leaves)
    g = represented(mesh, y.layout.dual, "gradient")
    kept = [mesh.xp.copy(array) for array in (g, *(x.local for x in leaves))]
    y.backward(Tensor(g, mesh, y.layout.dual))
    for what, array, before in zip(_names(leaves), (g, *(x.local for x in leaves)), kept, strict=True):
        findings.expect(sum_of(mesh, array != before) == 0, f"f or its vjp changed {what} in place")
    size = abs_sum(mesh, y.local * g)
    for what, direction in _directions(mesh, leaves, directions, elements):
        change = _central_difference(f, leaves, direction)
        left = sum_of(mesh, change * g)
        right = sum(sum_of(mesh, d * _gradient(leaves[k])) for k, d in direction.items())
        findings.dot(what, left, right, max(size, abs_sum(mesh, change * g), 1 / mesh.size))
    findings.settle("check_grads: central differences against the tape", rtol)


def _check_dtypes(inputs: Sequence[Tensor]) -> None:
    if not inputs:
        raise TypeError("check_grads: no inputs; write check_grads(f, x, …)")
    for k, x in enumerate(inputs):
        if x.is_floating and str(x.dtype) != "float64":
            raise TypeError(
                f"check_grads: input {k} is {x.dtype}, and differences need float64; write x.astype('float64')"
            )


def _names(leaves: Sequence[Tensor]) -> list[str]:
    return ["the gradient that it was handed", *(x.name or f"input {k}" for k, x in enumerate(leaves))]


Direction: TypeAlias = dict[int, Array]  # by input: what is added to its local array


def _directions(
    mesh: Mesh, leaves: Sequence[Tensor], directions: int, elements: int
) -> Iterator[tuple[str, Direction]]:
    floating = {k: x for k, x in enumerate(leaves) if x.requires_grad}
    for n in range(directions):
        drawn = {k: represented(mesh, x.layout, f"direction {n} of input {k}") for k, x in floating.items()}
        yield f"along random direction {n} (the dot test over ranks)", drawn
    for k, x in floating.items():
        if prod(x.shape) <= elements:
            for number, index in enumerate(product(*map(range, x.shape))):
                what = f"element {list(index)} of {_names(leaves)[k + 1]} {x.layout}"
                yield what, {k: _unit(mesh, x.layout, index, number)}


def _unit(mesh: Mesh, layout: Layout, index: tuple[int, ...], number: int) -> Array:
    """1 at a global index: on every copy of it; where it is Partial, in one of the terms, each in turn."""
    pieces = [layout.piece(dim, mesh.coords) for dim in range(layout.ndim)]
    unit = mesh.xp.zeros(tuple(map(len, pieces)), "float64")
    axes = [axis for axis in mesh.grid.axes if axis in layout.partial]
    term = number % prod(mesh.shape[axis] for axis in axes)
    if term == mesh.grid.number(axes, mesh.coords) and all(
        i in p for i, p in zip(index, pieces, strict=True)
    ):
        here = [i - p.start for i, p in zip(index, pieces, strict=True)]
        unit[tuple(slice(i, i + 1) for i in here)] = 1.0
    return unit


def _central_difference(f: Callable[..., Tensor], leaves: Sequence[Tensor], direction: Direction) -> Array:
    """(f(x + STEP·d) - f(x - STEP·d)) / (2·STEP), this rank's part."""
    with no_grad():
        ahead, behind = (f(*_moved(leaves, direction, step)).local for step in (STEP, -STEP))
    return (ahead - behind) / (2 * STEP)


def _moved(leaves: Sequence[Tensor], direction: Direction, step: float) -> list[Tensor]:
    moved = list(leaves)
    for k, d in direction.items():
        x = leaves[k]
        moved[k] = Tensor(x.local + d * step, x.mesh, x.layout, name=x.name)
    return moved


def _gradient(x: Tensor) -> Array:
    return x.mesh.xp.zeros(x.local.shape, x.dtype) if x.grad is None else x.grad.local


def sum_of(mesh: Mesh, x: Array) -> float:
    return float(mesh.xp.item(mesh.xp.sum(x)))


def abs_sum(mesh: Mesh, x: Array) -> float:
    return sum_of(mesh, mesh.xp.absolute(x))
