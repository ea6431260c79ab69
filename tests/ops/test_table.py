"""The table of examples (tests/op_cases.py) has every operation of the package, so the laws are tested on all of them.

A failure names operations without an example: add a Case whose function runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

from op_cases import CASES

import mpipar
from mpipar import Mesh, Tensor
from mpipar.job import world
from mpipar.ops import Op
from mpipar.tensor.tape import Leaf, Node
from mpipar.testing.values import leaf


def operations() -> set[str]:
    """The names of all operations that a module of mpipar holds."""
    found = set()
    for module in walk_packages(mpipar.__path__, "mpipar."):
        if not module.name.startswith("mpipar.comm.mpi"):
            found |= {
                value.name for value in vars(import_module(module.name)).values() if isinstance(value, Op)
            }
    return found


def nodes(node: Node | Leaf | None) -> Iterator[str]:
    if isinstance(node, Node):
        yield node.name
        for operand in node.operands:
            yield from nodes(operand)


def as_leaf(x: Tensor) -> Tensor:
    return leaf(x.local, x.mesh, x.layout, x.name) if x.is_floating else x


def test_every_operation_has_an_example():
    mesh = Mesh(ranks=[world().rank])
    run = {name for case in CASES.values() for name in nodes(case.f(*map(as_leaf, case.make(mesh))).node)}
    assert operations() <= run
    assert len(operations()) > 30
