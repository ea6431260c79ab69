"""When a run with a time limit must save and end. A failure shows the seconds that were left and the margin."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mpipar.job import slurm, world
from mpipar.job.limit import GRACE, TimeLimit
from mpipar.job.preempt import Preemption


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_without_an_end_there_is_no_limit() -> None:
    limit = TimeLimit()
    assert (limit.left(), limit.is_near()) == (None, False)


def test_the_margin_is_learnt_from_steps_and_saves() -> None:
    clock = Clock()
    limit = TimeLimit(1100.0, clock)
    assert not limit.is_near()
    assert limit.margin == 2 * 10 + GRACE, "no save was measured: a tenth of the time"
    clock.now += 3  # the first step is in no measure: is_near begins with it
    assert not limit.is_near()
    with limit.saving():
        clock.now += 1
    clock.now += 4
    assert not limit.is_near()
    assert limit.margin == 2 * 4 + 2 * 1 + GRACE, "the save is no part of the step"
    while not limit.is_near():
        clock.now += 4
    assert limit.left() == 12, "less than the 15 s of the margin; at 16 s a step was begun"


def test_a_save_that_was_not_seen_is_a_minute_at_most() -> None:
    clock = Clock()
    assert TimeLimit(clock.now + 36_000, clock).margin == 2 * 60 + GRACE


def test_a_limit_that_was_passed_is_near_at_once() -> None:
    assert TimeLimit(999.0, Clock()).is_near()


def test_one_rank_that_sees_its_limit_stops_all() -> None:
    """The limit is rank 0's; the others learn of it by the collective that carries signals."""
    ranks = world()
    clock = Clock()
    preemption = Preemption([], TimeLimit(1100.0, clock) if ranks.rank == 0 else None)
    assert not preemption.requested(ranks)
    clock.now = 1099.0
    assert preemption.requested(ranks)
    assert preemption.reason == ("before the time limit" if ranks.rank == 0 else "by a signal")
    assert preemption.requested(ranks), "it stays so"


def test_a_signal_that_came_first_is_the_reason() -> None:
    preemption = Preemption([10], TimeLimit(0.0))
    assert preemption.requested(world())
    assert preemption.reason == "by a signal"


# ---- what SLURM tells -----------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No job, and a PATH that holds a squeue of our own alone."""
    for name in (
        "SLURM_JOB_ID",
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_JOB_END_TIME",
        "SLURM_RESTART_COUNT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return monkeypatch


def squeue(tmp_path: Path, body: str) -> None:
    path = tmp_path / "squeue"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_outside_slurm_there_is_no_job_and_no_end(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    squeue(tmp_path, "echo 1:00")
    assert (slurm.job(), slurm.end_of_job()) == ({}, None)
    assert TimeLimit.told("auto", known=True).left() is None


def test_the_variable_of_newer_slurms_is_taken(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("SLURM_JOB_ID", "7")
    end = int(time.time()) + 600
    bare.setenv("SLURM_JOB_END_TIME", str(end))
    assert slurm.end_of_job() == end
    assert TimeLimit.told("auto", known=True).left() == pytest.approx(600, abs=30)
    assert TimeLimit.told("auto", known=False).left() is None, "the other ranks do not ask"
    assert TimeLimit.told("none", known=True).left() is None
    assert TimeLimit.told("0:30", known=True).left() == pytest.approx(30, abs=5)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ('[ "$*" = "--noheader --format=%L --jobs=7_3" ] && echo 10:00', 600),
        ("echo 1-00:00:00", 86_400),
        ("echo 0:00", 0),
        ("echo UNLIMITED", None),
        ("echo NOT_SET", None),
        ("echo INVALID", None),
        ("exit 1", None),
        ("echo; echo rubbish", None),
    ],
)
def test_squeue_is_asked_of_older_ones(
    bare: pytest.MonkeyPatch, tmp_path: Path, body: str, left: float | None
) -> None:
    bare.setenv("SLURM_JOB_ID", "9")
    bare.setenv("SLURM_ARRAY_JOB_ID", "7")
    bare.setenv("SLURM_ARRAY_TASK_ID", "3")
    squeue(tmp_path, body)
    end = slurm.end_of_job()
    assert end is None if left is None else end == pytest.approx(time.time() + left, abs=30)


def test_without_a_squeue_there_is_no_limit(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SLURM_JOB_ID", "7")
    assert slurm.end_of_job() is None


def test_what_a_run_writes_down_of_its_job() -> None:
    env = {
        "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "gpt", "SLURM_CLUSTER_NAME": "lab", "SLURM_JOB_PARTITION": "cpu",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "2", "SLURM_PROCID": "3",
    }  # fmt: skip
    assert slurm.job(env) == {
        "job": "12", "name": "gpt", "cluster": "lab", "partition": "cpu", "nodes": "n[1-2]", "restarts": 2,
    }  # fmt: skip
    assert slurm.job(env | {"SLURM_JOB_ID": "$(ls)"}) == {}
