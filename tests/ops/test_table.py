"""The table of examples (tests/op_cases.py) has every operation of the package, so the laws are tested on all of them.

A failure names operations without an example: add a Case whose function runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from op_cases import CASES

import mpipar
from mpipar import Mesh, Tensor
from mpipar.job import world
from mpipar.ops import Op
from mpipar.testing.values import leaf


def operations() -> set[Op]:
    """All operations that a module of mpipar holds."""
    found = set()
    for module in walk_packages(mpipar.__path__, "mpipar."):
        if not module.name.startswith(
            ("mpipar.comm.mpi", "mpipar.backend.")
        ):  # some need what is not installed
            found |= {value for value in vars(import_module(module.name)).values() if isinstance(value, Op)}
    return found


def as_leaf(x: Tensor) -> Tensor:
    return leaf(x.local, x.mesh, x.layout, x.name) if x.is_floating else x


@contextmanager
def spied(op: Op, run: set[str]) -> Iterator[None]:
    """Inside the block the name of the operation is added to `run` when it runs."""
    forward = op.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        run.add(op.name)
        return forward(*args, **kwargs)

    object.__setattr__(op, "forward", spy)  # an Op is frozen
    yield
    object.__setattr__(op, "forward", forward)


def test_every_operation_has_an_example():
    mesh, run, found = Mesh(ranks=[world().rank]), set(), operations()
    with ExitStack() as spies:
        for op in found:
            spies.enter_context(spied(op, run))
        for case in CASES.values():
            case.f(*map(as_leaf, case.make(mesh)))
    assert {op.name for op in found} <= run
    assert len(found) > 65
