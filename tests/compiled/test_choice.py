"""Which kernels a CPU rank takes: the compiled ones where they can be had, else one message."""

from __future__ import annotations

import pytest

from mpipar.testing import launch

pytestmark = pytest.mark.launches
SHOWS = "from mpipar import Mesh\nprint(Mesh(ranks=[0]).xp.__name__)\n"
WITHOUT = "import sys\nsys.modules['numba'] = None  # as if it were not installed\n"


@pytest.mark.parametrize(("asked", "taken"), [("", "numba"), ("numba", "numba"), ("numpy", "numpy")])
def test_compiled_kernels_are_taken_unless_told_otherwise(asked: str, taken: str) -> None:
    done = launch(0, SHOWS, env={"MPIPAR_KERNELS": asked})
    assert (done.returncode, done.stdout) == (0, f"mpipar.backend.{taken}\n"), done.stderr


def test_without_numba_the_kernels_are_those_of_numpy() -> None:
    done = launch(0, WITHOUT + SHOWS, env={"MPIPAR_KERNELS": ""})
    assert (done.returncode, done.stdout) == (0, "mpipar.backend.numpy\n"), done.stderr


@pytest.mark.parametrize(
    ("program", "asked", "message"),
    [
        (WITHOUT + SHOWS, "numba", "no compiled kernels: "),
        (SHOWS, "fast", "MPIPAR_KERNELS=fast is not known; write numba, numpy, or leave it out"),
    ],
    ids=["not installed", "unknown"],
)
def test_what_cannot_be_had_is_one_message(program: str, asked: str, message: str) -> None:
    done = launch(2, program.replace("ranks=[0]", "dp=2"), env={"MPIPAR_KERNELS": asked})
    assert done.returncode == 2
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
