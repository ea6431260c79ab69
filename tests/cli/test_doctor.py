"""`mpipar doctor` as a process: alone, under mpirun, under launchers that do not fit. A failure shows its report."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

STANDIN = Path(__file__).parents[1] / "standin"
DOCTOR = """
import runpy, sys
sys.argv[1:] = ["doctor"]
runpy.run_module("mpipar", run_name="__main__", alter_sys=True)
"""


def doctor(ranks: int, **env: str) -> Finished:
    return launch(ranks, DOCTOR, env=env)


@pytest.mark.parametrize("ranks", [0, 1, 2])
def test_a_sound_start_is_one_report_and_code_0(ranks: int) -> None:
    done = doctor(ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "nothing is wrong"
    assert done.stdout.count("nothing is wrong") == 1, "rank 0 alone speaks"
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == [str(n) for n in range(max(1, ranks))]
    assert ("launcher  mpirun" in lines) == (ranks > 0)


def test_too_many_threads_is_wrong_with_its_fix() -> None:
    done = doctor(2, OMP_NUM_THREADS="64", OPENBLAS_NUM_THREADS="64")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG: 2 ranks on " in done.stdout
    assert "unset OMP_NUM_THREADS, and mpipar shares the cores out" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 thing is wrong"


def test_ranks_that_are_bound_to_one_core_are_wrong_where_there_are_more() -> None:
    bind = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    done = launch(2, bind + DOCTOR)
    several = (os.cpu_count() or 1) > 1
    assert done.returncode == several, done.stdout + done.stderr
    assert ("WRONG: ranks 0, 1 on " in done.stdout) == several
    assert ("let the launcher spread them" in done.stdout) == several


@pytest.mark.skipif(find_spec("cupy") is not None, reason="the stand-in is for where no CuPy is")
def test_more_ranks_than_cards_is_wrong() -> None:
    path = os.pathsep.join([str(STANDIN), os.environ.get("PYTHONPATH", "")])
    done = launch(3, DOCTOR, env={"PYTHONPATH": path, "STANDIN_CARDS": "2"})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG: 3 ranks are more than 2 cards with 1 rank each" in done.stdout
    rows = [line.split("  ")[-1].strip() for line in done.stdout.splitlines() if line.endswith(", stand-in")]
    assert rows == ["card 0, stand-in", "card 1, stand-in", "card 0, stand-in"]


@pytest.mark.parametrize(("told", "said"), [("0", 1), ("1", 0)])
def test_a_singleton_of_srun_names_the_mpi_flag_once(told: str, said: int) -> None:
    """Of four such processes one is the first by srun's word: it speaks."""
    done = doctor(0, SLURM_STEP_NUM_TASKS="4", SLURM_PROCID=told, SLURM_JOB_ID="7")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("WRONG: 4 ranks were launched, but MPI found 1") == said
    assert done.stdout.count("Write  srun --mpi=pmi") == said
    assert done.stderr == ""


def test_without_mpi_it_says_how_to_get_one() -> None:
    done = doctor(0, MPI4PY_LIBMPI="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "note: there is no MPI library: this Python is one rank alone\n  write  pip install" in done.stdout


def test_without_mpi_under_a_launcher_is_wrong() -> None:
    done = doctor(2, MPI4PY_LIBMPI="/nonexistent")
    assert done.returncode == 1
    assert done.stdout.count("WRONG: 2 ranks were launched") == 1
