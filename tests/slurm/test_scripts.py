"""Each script of jobs/ is submitted to a real SLURM and completes, on 2 nodes of 2 ranks. A failure
shows the job's log.
"""

from __future__ import annotations

import shlex

import pytest
from slurm.desk import Desk

pytestmark = pytest.mark.launches

SMALL = shlex.split(
    "--steps 6 --batch 4 --context 16 --width 16 --heads 2 --layers 1 --warmup 2 --val-every 3 --val-batches 1 "
    "--sample 0 --dtype float64 --dropout 0.1 --data words.txt"
)
TWO_BY_TWO = "--nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --time=5"


def out_of(desk: Desk, job: str) -> str:
    return f"runs/{desk.about(job)['JobName']}-{job}"


def check_run(desk: Desk, job: str, ranks: int = 4) -> str:
    log = desk.succeed(job)
    records = desk.records(out_of(desk, job))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6], log
    assert f"{ranks} ranks" in log, log
    return log


def test_one_node(desk: Desk) -> None:
    check_run(desk, desk.submit("cpu.sbatch", *SMALL, options="--ntasks-per-node=2 --time=5"), ranks=2)


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_several_nodes(desk: Desk, launcher: str) -> None:
    job = desk.submit("cpu-nodes.sbatch", *SMALL, options=TWO_BY_TWO, LAUNCHER=launcher)
    assert f"n[1-2], {launcher}" in check_run(desk, job)
    assert desk.about(job)["NumNodes"] == "2"


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_several_nodes_with_open_mpi(openmpi: Desk, launcher: str) -> None:
    job = openmpi.submit("cpu-nodes.sbatch", *SMALL, options=TWO_BY_TWO, LAUNCHER=launcher, MPI="openmpi")
    log = check_run(openmpi, job)
    assert f"n[1-2], {launcher}" in log
    assert "Open MPI" in log, "in the doctor's report"
