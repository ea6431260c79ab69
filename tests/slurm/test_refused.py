"""Jobs that must not run: N singletons, each of which would train by itself and write into one directory."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from slurm.desk import Desk

pytestmark = pytest.mark.launches

TWO_BY_TWO = "--nodes=2 --ntasks-per-node=2 --time=5"
FLAGS = ("--steps", "2", "--data", "words.txt", "--out", "runs/refused")


@pytest.mark.parametrize("doctor", ["with the doctor", "without"])
def test_no_pmi(desk: Desk, doctor: str) -> None:
    desk.edit("jobs/site.sh", "--mpi=pmi2", "--mpi=none")
    check_refused(desk, doctor, "srun --mpi=pmi2")


@pytest.mark.parametrize("doctor", ["with the doctor", "without"])
def test_pmi2_for_open_mpi(openmpi: Desk, doctor: str) -> None:
    openmpi.edit("jobs/site.sh", "--mpi=pmix", "--mpi=pmi2")
    check_refused(openmpi, doctor, "srun --mpi=pmix")


@pytest.mark.parametrize("doctor", ["with the doctor", "without"])
def test_pmix_for_mpich(desk: Desk, doctor: str) -> None:
    check_refused(desk, doctor, "srun --mpi=pmi2", MPI="Open MPI")


def check_refused(desk: Desk, doctor: str, fix: str, **variables: str) -> None:
    """The job fails, its log says what to write, and no run was begun."""
    if doctor == "without":
        desk.edit("jobs/cpu-nodes.sbatch", '"${launch[@]}" python -m mpipar doctor', ":")
    about = desk.finish(desk.submit("cpu-nodes.sbatch", *FLAGS, options=TWO_BY_TWO, **variables))
    log = desk.log(about)
    print(about["ExitCode"], log)
    assert about["JobState"] == "FAILED"
    assert "Traceback" not in log
    assert fix in log
    assert not (desk.folder / "runs").exists()


def test_an_unknown_launcher(desk: Desk) -> None:
    about = desk.finish(desk.submit("cpu.sbatch", *FLAGS, options="--ntasks-per-node=1", LAUNCHER="rsh"))
    assert about["ExitCode"] == "2:0"
    assert "LAUNCHER=rsh: write srun or mpirun" in desk.log(about)


def test_a_script_from_another_directory(desk: Desk) -> None:
    """Its log says which file is not there; nothing runs without what that file sets up."""
    above = replace(desk, folder=desk.folder.parent)
    job = above.run("sbatch", "--parsable", "home/jobs/cpu.sbatch", "--data", "home/words.txt").strip()
    about = above.finish(job)
    assert about["JobState"] == "FAILED"
    assert "jobs/site.sh: No such file or directory" in above.log(about)
    assert "Mesh" not in above.log(about)


def test_a_script_without_sbatch(desk: Desk) -> None:
    done = subprocess.run(
        ["bash", "jobs/cpu.sbatch"], cwd=desk.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "SLURM_SUBMIT_DIR: start it with sbatch" in done.stderr
