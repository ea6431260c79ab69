"""The examples in docstrings give what they show, on a mesh of one. A failure shows both."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mpipar

NOT_IMPORTED = {
    "mpipar.comm.mpi",
    "mpipar.testing.referee",
    "mpipar.testing.plugin",
    "mpipar.testing.witness",
}
EXTRAS = ("mpipar.backend.cupy", "mpipar.backend.numba")  # on some machines only
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(mpipar.__path__, "mpipar.")
    if found.name not in NOT_IMPORTED and not found.name.startswith(EXTRAS)
)


@pytest.mark.alone  # the examples say Mesh(ranks=[0])
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 20
