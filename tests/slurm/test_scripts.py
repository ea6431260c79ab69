"""Each script of jobs/ is submitted to a real SLURM and completes, on 2 nodes of 2 ranks. A failure
shows the job's log.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from runs import Run, attempt, write_text
from slurm.desk import ROOT, Desk

pytestmark = pytest.mark.launches

SMALL = shlex.split(
    "--steps 20 --batch 4 --context 16 --width 16 --heads 2 --layers 1 --warmup 2 --val-every 10 --val-batches 1 "
    "--sample 0 --dtype float64 --dropout 0.1 --data words.txt"
)
STANDIN = ROOT / "tests" / "standin"
CARDS = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(STANDIN), os.environ.get("PYTHONPATH")])),
    "STANDIN_CARDS": "2",
}
APPTAINER = """\
#!/bin/sh
[ "$1 $2 $4" = "exec --bind --pwd" ] || exit 9
[ -z "$PMI_RANK" ] && [ -z "$SLURM_PROCID" ] && exit 8
[ "${SLURM_PROCID:-$PMI_RANK}" != 0 ] || echo "in $6 at $5"
cd "$5" && shift 6 && exec "$@"
"""
TWO_BY_TWO = "--nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --time=5"


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Of the same run by mpirun, without SLURM."""
    here = tmp_path_factory.mktemp("by-mpirun")
    write_text(here / "words.txt")
    done = attempt(4, [*SMALL, "--out", "out"], here)
    assert done.returncode == 0, done.stderr
    return Run(done, here / "out").numbers("loss")


def check_run(desk: Desk, job: str, losses: list[float], ranks: int = 4) -> str:
    """The job has ended well, with these losses to 1e-9 (float64). Returns its log."""
    log = desk.succeed(job)
    records = desk.records(f"runs/{desk.about(job)['JobName']}-{job}")
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-9, abs=0), log
    assert "nothing is wrong" in log, "the doctor's report"
    assert f"ranks     {ranks} on {(ranks + 1) // 2} node" in log
    return log


def test_one_node(desk: Desk, losses: list[float]) -> None:
    job = desk.submit("cpu.sbatch", *SMALL, options="--ntasks-per-node=2 --time=5")
    check_run(desk, job, losses, ranks=2)


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_several_nodes(desk: Desk, losses: list[float], launcher: str) -> None:
    job = desk.submit("cpu-nodes.sbatch", *SMALL, options=TWO_BY_TWO, LAUNCHER=launcher)
    assert f"n[1-2], {launcher}" in check_run(desk, job, losses)
    assert desk.about(job)["NumNodes"] == "2"


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_several_nodes_with_open_mpi(openmpi: Desk, losses: list[float], launcher: str) -> None:
    job = openmpi.submit("cpu-nodes.sbatch", *SMALL, options=TWO_BY_TWO, LAUNCHER=launcher)
    log = check_run(openmpi, job, losses)
    assert f"n[1-2], {launcher}" in log
    assert "MPI       Open MPI" in log, "the doctor's report"


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_gpus(desk: Desk, losses: list[float], launcher: str) -> None:
    """Two GPUs a node, by name only: the cards are those of the stand-in for CuPy. Each rank takes its own."""
    job = desk.submit(
        "gpu-nodes.sbatch", *SMALL, options=f"{TWO_BY_TWO} --gpus-per-node=2", LAUNCHER=launcher, **CARDS
    )
    log = check_run(desk, job, losses)
    assert "on GPU (stand-in" in log
    assert cards(log) == [("0", "n1", "0"), ("1", "n1", "1"), ("2", "n2", "0"), ("3", "n2", "1")]


def cards(log: str) -> list[tuple[str, str, str]]:
    """Rank, node and number of its card: of the doctor's table."""
    return re.findall(r"^(\d) +(n\d) .* card (\d), stand-in", log, re.MULTILINE)


def test_a_gpu_for_each_task(desk: Desk, losses: list[float]) -> None:
    """As the script says: then srun shows each rank one card, of which it takes the first."""
    desk.edit("jobs/gpu-nodes.sbatch", "--gpus-per-node=4", "--gpus-per-task=1")
    doctor = '"${launch[@]}" python -m mpipar doctor'
    see = """"${launch[@]}" sh -c 'echo "rank $SLURM_PROCID sees $CUDA_VISIBLE_DEVICES"'"""
    desk.edit("jobs/gpu-nodes.sbatch", doctor, f"{see}\n{doctor}")
    job = desk.submit("gpu-nodes.sbatch", *SMALL, options=TWO_BY_TWO, **CARDS)
    log = check_run(desk, job, losses)
    assert "on GPU (stand-in" in log
    assert sorted(re.findall(r"^rank (\d) sees (\S+)$", log, re.MULTILINE)) == [
        ("0", "0"), ("1", "1"), ("2", "0"), ("3", "1"),
    ]  # fmt: skip
    assert "devices   4 cards" in log
    assert [card for _, _, card in cards(log)] == ["0"] * 4, "of those that it sees"


def test_container(desk: Desk, losses: list[float], tmp_path: Path) -> None:
    """Without Apptainer: a program of its name, which runs what it is given outside of any image."""
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(APPTAINER)
    apptainer.chmod(0o755)
    path = f"{apptainer.parent}{os.pathsep}{os.environ['PATH']}"
    job = desk.submit("container.sbatch", *SMALL, options=TWO_BY_TWO, PATH=path, IMAGE="some.sif")
    assert "in some.sif at " in check_run(desk, job, losses)


def test_no_script_is_forgotten() -> None:
    """Each has its test: here, in test_long.py or in test_scaling.py."""
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    scripts = [script.name for script in (ROOT / "jobs").glob("*.sbatch")]
    assert [script for script in scripts if f'"{script}"' not in tests] == []
