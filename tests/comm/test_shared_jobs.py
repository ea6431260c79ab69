"""Shared memory as a job meets it: switched off, or left behind by ranks that were killed."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest

from mpipar.testing import launch

pytestmark = pytest.mark.launches

PROGRAM = """
    import os, signal
    from mpipar.job import world
    comm = world()
    x = comm.xp.full((100_000,), 1.0, "float32")
    print("shared" if comm.shared else "over MPI", comm.allreduce(x)[-1].item(), flush=True)
"""


REFUSES = "from mpipar.backend.numpy.arena import Memory; Memory.attach = lambda self, place: None"


@pytest.mark.parametrize(
    ("variable", "said"), [("", "shared"), ("1", "shared"), ("0", "over MPI")], ids=["unset", "1", "0"]
)
def test_the_variable(variable: str, said: str) -> None:
    run = launch(3, dedent(PROGRAM), env={"MPIPAR_SHARED_MEMORY": variable})
    assert (run.returncode, run.stdout.split("\n")) == (0, [f"{said} 3.0"] * 3 + [""]), run.stderr


@pytest.mark.parametrize(
    "line",
    ['os.environ["MPIPAR_SHARED_MEMORY"] = "0"', "del os.memfd_create", REFUSES],
    ids=["says no", "cannot make it", "cannot map the others'"],
)
def test_one_rank_is_enough_for_all_to_go_over_mpi(line: str) -> None:
    """No rank waits for another."""
    program = f"""
        import os
        if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
            {line}
    """
    run = launch(3, dedent(program) + dedent(PROGRAM))
    assert (run.returncode, run.stdout.split("\n")) == (0, ["over MPI 3.0"] * 3 + [""]), run.stderr


def test_another_value_is_refused() -> None:
    run = launch(2, dedent(PROGRAM), env={"MPIPAR_SHARED_MEMORY": "no"})
    assert run.returncode != 0
    assert (
        "MPIPAR_SHARED_MEMORY='no': write 0 (collectives within a machine go through MPI alone), 1"
        in run.stderr
    )


def test_killed_ranks_leave_nothing_behind() -> None:
    """MPI's own files apart: the memory has no name anywhere, and goes with the processes."""
    shm = Path("/dev/shm")
    before = set(os.listdir(shm))
    run = launch(
        3, f"{dedent(PROGRAM)}\nif comm.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ncomm.barrier()\n"
    )
    assert run.returncode != 0
    assert run.stdout.count("shared 3.0") == 3
    left = {
        name
        for name in set(os.listdir(shm)) - before
        if not name.startswith(("mpich", "vader", "sm_segment"))
    }
    assert not left
