"""`mpipar submit`, `jobs`, `logs` and `cancel` with the real sbatch, squeue and scancel.

A failure shows the job's log, or what the command said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from runs import attempt
from slurm.desk import KERNELS, Desk
from slurm.processes import wait_until
from slurm_fakes import write

pytestmark = pytest.mark.launches

RUN = {
    "steps": 120, "batch": 4, "context": 8, "width": 8, "heads": 2, "layers": 2, "warmup": 2, "val_every": 0,
    "sample": 0, "dtype": "float64", "data": ["words.txt"], "save_every": 20, "mesh": "pp=2,dp=2", "micro_batch": 1,
    "schedule": "gpipe", "lr_schedule": "constant", "resume": "auto", "out": "runs/a",
}  # fmt: skip
SLURM = {"name": "small", "nodes": 2, "tasks_per_node": 2, "time": "5:00", "requeue": True, "restarts": 3}
# A python that is asked to stop where it cannot hear it: while the doctor looks, and before train.py's first line.
SLOW = """\
#!/bin/sh
case "$SLURM_RESTART_COUNT $*" in
" -m mpipar doctor" | "0 -m mpipar doctor") touch looking; sleep 3;;
"1 -u train.py"*) touch starting; sleep 3;;
esac
exec python "$@"
"""


def command(desk: Desk, *words: str, code: int = 0) -> str:
    """What `mpipar words` prints; on stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "mpipar", *words], cwd=desk.folder, env=desk.environment({}), capture_output=True,
        text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == code, f"{words}\n{done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


def submit(desk: Desk, out: str, run: dict[str, Any] | None = None, **slurm: Any) -> str:
    """The number of a new job, which finds the Python of these tests."""
    write(desk.folder / "a.toml", RUN | {"out": out} | (run or {}), SLURM | {"venv": str(desk.venv)} | slurm)
    first, log, _ = command(desk, "submit", "a.toml").splitlines()
    number = first.split()[1].rstrip(":")
    assert (
        first
        == f"job {number}: 4 ranks, {(RUN | (run or {}))['steps']} steps, results in {desk.folder}/{out}"
    )
    assert log == f"  its log will be {desk.folder}/{out}/slurm-{number}.out"
    return number


def reach(desk: Desk, job: str, out: str, step: int) -> None:
    wait_until(lambda: desk.steps(out) >= step, 120, f"step {step}", lambda: desk.log(desk.about(job)))


def cells(desk: Desk, out: str) -> dict[str, str]:
    """The one line of `mpipar jobs out`, by the words above its columns."""
    head, line = command(desk, "jobs", out).splitlines()
    starts = [
        head.index(word)
        for word in ("job", "name", "state", "step", "loss", "tokens/s", "to go", "time left")
    ]
    ends = [*starts[1:], head.index("results")]
    return {head[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


@pytest.fixture
def losses(desk: Desk) -> list[float]:
    """Of the same run by mpirun, whole."""
    flags = [word for key, value in RUN.items() if key != "out" for word in flag(key, value)]
    done = attempt(4, [*flags, "--out", "runs/whole"], desk.folder, KERNELS)
    assert done.returncode == 0, done.stderr
    return [record["loss"] for record in desk.records("runs/whole")]


def flag(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [f"--{key.replace('_', '-')}", *map(str, values)]


def test_a_job_is_watched_asked_to_stop_and_goes_on(desk: Desk, losses: list[float]) -> None:
    job = submit(desk, "runs/a")
    reach(desk, job, "runs/a", 30)
    now = cells(desk, "runs/a")
    assert (now["job"], now["name"], now["state"]) == (job, "small", "RUNNING")
    assert 30 <= int(now["step"].removesuffix("/120")) < 120
    assert float(now["loss"]) > 0
    assert now["time left"].startswith("4:")
    assert "nothing is wrong" in command(desk, "logs", job, "--lines", "1000")
    desk.run("scancel", "--batch", "--signal=USR1", job)
    followed = command(desk, "logs", "runs/a", "--follow")
    assert "mpipar: restart 1 of 3" in followed + desk.log(desk.about(job))
    log = desk.succeed(job)
    assert desk.about(job)["Restarts"] == "1", log
    assert [record["loss"] for record in desk.records("runs/a")] == pytest.approx(losses, rel=1e-9, abs=0)
    starts = json.loads((desk.folder / "runs/a/run.json").read_text())
    told = [(start["slurm"]["job"], start["slurm"]["nodes"], start["slurm"]["restarts"]) for start in starts]
    assert told == [(job, "n[1-2]", 0), (job, "n[1-2]", 1)]
    then = cells(desk, "runs/a")
    assert (then["state"], then["step"], then["time left"]) == ("COMPLETED", "120/120", "-")
    assert command(desk, "cancel", job) == f"nothing to cancel: {job} ended before\n"


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_job_is_cancelled_and_submitted_again(desk: Desk, losses: list[float], launcher: str) -> None:
    job = submit(desk, "runs/a", launcher=launcher)
    reach(desk, job, "runs/a", 50)
    assert command(desk, "cancel", "runs/a") == f"cancelled: {job}\n"
    about = desk.finish(job)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0"), desk.log(about)
    if launcher == "srun":
        assert "stopped after step" in desk.log(about)
    desk.succeed(submit(desk, "runs/a", launcher=launcher))
    assert [record["loss"] for record in desk.records("runs/a")] == pytest.approx(losses, rel=1e-9, abs=0)


def test_asked_where_nobody_hears_yet(desk: Desk) -> None:
    """While the doctor looks, then while Python starts: nothing has begun, and each time the job is queued again."""
    python = desk.folder / "slow"
    python.write_text(SLOW)
    python.chmod(0o755)
    short = {"steps": 2, "dtype": "bfloat16", "mesh": "", "micro_batch": 0, "schedule": "1f1b", "zero": 1}
    job = submit(desk, "runs/a", short, python="./slow")
    for mark in ("looking", "starting"):
        wait_until((desk.folder / mark).exists, 60, mark, lambda: desk.log(desk.about(job)))
        desk.run("scancel", "--batch", "--signal=USR1", job)
    log = desk.succeed(job, 180)
    assert desk.about(job)["Restarts"] == "2", log
    assert log.count("nothing is wrong") == 3, "the doctor of each start"
    assert desk.steps("runs/a") == 2


def test_what_sbatch_refuses_leaves_nothing(desk: Desk) -> None:
    write(desk.folder / "a.toml", RUN, SLURM | {"partition": "nowhere"})
    said = command(desk, "submit", "a.toml", code=2)
    assert "sbatch refuses the script: invalid partition specified: nowhere" in said
    assert not (desk.folder / "runs").exists()
