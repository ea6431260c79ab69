"""Parallel equals serial: a function or a layer on a mesh, against the same values on this rank alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from mpipar.mesh import Mesh
from mpipar.nn import Module
from mpipar.tensor import Tensor
from mpipar.testing.findings import Findings, on_host
from mpipar.testing.placements import Combination, legal_among
from mpipar.testing.values import Whole, leaf, placed_as, represented, serial_mesh, wholes_of

Function: TypeAlias = Callable[..., Tensor]  # of the inputs; of the module and the inputs, where one is made
Make: TypeAlias = Callable[[Mesh], Module]


def check_parallel(f: Function, *inputs: Tensor, make: Make | None = None, rtol: float = 1e-12) -> None:
    """Raises AssertionError unless f gives on the mesh of its inputs what it gives on one rank.

    Compared are the output and the gradients of all inputs. With ``make(mesh) -> Module`` f is called as
    ``f(module, *inputs)``, on each mesh with the module made there, and the gradients of all parameters count too, by
    name; the weights are moved off their initial values first (a bias of 0 would hide much). What is Replicate must
    have the same bits on all ranks. Collective.

    >>> import mpipar as mp
    >>> from mpipar.nn import RowParallelLinear
    >>> mesh = mp.Mesh(ranks=[0])  # in a test: mp.Mesh(tp=4)
    >>> x = mp.randn("x", (5, 6), mesh, dtype="float64", tp=mp.Shard(1))
    >>> w = mp.randn("w", (6, 2), mesh, dtype="float64", tp=mp.Shard(0))
    >>> check_parallel(lambda x, w: (x @ w).allreduce("tp"), x, w)
    >>> check_parallel(
    ...     RowParallelLinear.__call__, x, make=lambda mesh: RowParallelLinear("down", 6, 2, mesh, dtype="float64")
    ... )
    """
    mesh, alone = inputs[0].mesh, serial_mesh(inputs[0].mesh)
    placements = [placed_as(x.layout) for x in inputs]
    serial = [whole.on(alone, p) for whole, p in zip(wholes_of(inputs), placements, strict=True)]
    expected = _run(f, make, alone, serial)
    found = _run(f, make, mesh, [_as_leaf(x) for x in inputs])
    findings = Findings(mesh)
    _compare(findings, "", found, _on_host(expected))
    findings.settle("check_parallel", rtol)


def check_every_placement(
    f: Function,
    *inputs: Tensor,
    make: Make | None = None,
    axes: Sequence[str] | None = None,
    rtol: float = 1e-12,
) -> int:
    """`check_parallel` for every combination of placements of the inputs that f takes; how many there are.

    The combinations are those of `legal_placements`; the inputs' own placements do not matter. Collective.

    >>> import mpipar as mp
    >>> x = mp.randn("x", (5, 3), mp.Mesh(ranks=[0], tp=1), dtype="float64")
    >>> check_every_placement(lambda x: x.softmax(1), x)  # Replicate and Shard(0)
    2
    """
    mesh, alone = inputs[0].mesh, serial_mesh(inputs[0].mesh)
    wholes = wholes_of(inputs)
    asked = _bound(f, make, mesh)
    findings, expected, count = Findings(mesh), None, 0
    for combination in legal_among(asked, wholes, mesh, axes or mesh.grid.named):
        if expected is None:  # of the first combination: on one rank all of them are the same numbers
            expected = _on_host(_run(f, make, alone, _spread_all(wholes, alone, combination)))
        found = _run(f, make, mesh, _spread_all(wholes, mesh, combination))
        _compare(findings, f"{described(combination)}: ", found, expected)
        count += 1
    findings.settle("check_every_placement", rtol)
    return count


def described(combination: Combination) -> str:
    """Placements on one line: ``dp=Shard(0) tp=Replicate() by tp=Shard(1)``."""
    words = [" ".join(f"{axis}={p}" for axis, p in placements.items()) for placements in combination]
    return " by ".join(words)


class Run(NamedTuple):
    """What f gave: the output, and the gradients of inputs and parameters by name."""

    output: Tensor
    gradients: dict[str, Tensor | None]


def _run(f: Function, make: Make | None, mesh: Mesh, inputs: Sequence[Tensor]) -> Run:
    module = _made(make, mesh)
    output = f(*([] if module is None else [module]), *inputs)
    if output.requires_grad:
        dual = output.layout.dual
        g = represented(mesh, dual, "gradient", mesh.xp.widen(output.local).dtype)
        output.backward(Tensor(g, mesh, dual))
    parameters = {} if module is None else module.named_parameters()
    gradients = {f"gradient of input {k}": x.grad for k, x in enumerate(inputs) if x.is_floating}
    return Run(output, gradients | {f"gradient of {name!r}": p.grad for name, p in parameters.items()})


def _made(make: Make | None, mesh: Mesh) -> Module | None:
    """The module, its weights moved off their initial values, alike on every mesh."""
    if make is None:
        return None
    module = make(mesh)
    for name, p in module.named_parameters().items():
        moved = p.local + represented(mesh, p.layout, name, p.dtype) * 0.5
        mesh.xp.copy_into(p.local, mesh.xp.cast(moved, p.dtype))
    return module


def _bound(f: Function, make: Make | None, mesh: Mesh) -> Function:
    module = _made(make, mesh)
    return f if module is None else lambda *inputs: f(module, *inputs)


def _on_host(run: Run) -> dict[str, Any]:
    """The numbers of a serial run, by what they are; None where there is no gradient."""
    found = {"output": run.output, **run.gradients}
    return {name: None if x is None else on_host(x) for name, x in found.items()}


def _compare(findings: Findings, where: str, found: Run, expected: dict[str, Any]) -> None:
    tensors: dict[str, Tensor | None] = {"output": found.output, **found.gradients}
    for name, x in tensors.items():
        whole, what = expected.get(name), where + name
        if x is None or whole is None:
            findings.expect(x is whole, f"{what}: only {'one rank' if x is None else 'the mesh'} has one")
        elif x.shape != whole.shape:
            findings.expect(False, f"{what}: {x.shape}, and {whole.shape} on one rank")
        else:
            findings.value(what, x, whole)


def _spread_all(wholes: Sequence[Whole], mesh: Mesh, combination: Combination) -> list[Tensor]:
    return [whole.on(mesh, placements) for whole, placements in zip(wholes, combination, strict=True)]


def _as_leaf(x: Tensor) -> Tensor:
    return leaf(x.local, x.mesh, x.layout, x.name) if x.is_floating else x
