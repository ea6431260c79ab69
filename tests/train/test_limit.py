"""A run with a time limit ends before it with a checkpoint, and goes on. A failure shows what it printed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from runs import attempt, write_text
from slurm_fakes import calls, program

from mpipar.testing import Finished

pytestmark = pytest.mark.launches

FLAGS = [
    "--batch",
    "4",
    "--context",
    "8",
    "--width",
    "8",
    "--heads",
    "2",
    "--layers",
    "1",
    "--val-every",
    "0",
    "--sample",
    "0",
    "--data",
    "words.txt",
    "--log-every",
    "1",
    "--out",
    "run",
    "--resume",
    "auto",
]


def stopped(done: Finished, out: Path) -> int:
    """The step after which a run ended before its limit; it has a checkpoint of that step."""
    assert done.returncode == 85, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("stopped after step "), last
    assert last.endswith(" before the time limit: go on with --resume auto --out run")
    step = int(last.split()[3])
    assert (out / "checkpoints" / f"step-{step:08d}" / "index.json").exists()
    records = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == list(range(1, step + 1))
    return step


def starts(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "run.json").read_text())
    return found


def test_a_limit_on_the_command_line(tmp_path: Path) -> None:
    write_text(tmp_path / "words.txt", 4000)
    limited = [*FLAGS, "--steps", "1000000", "--time-limit", "0:09"]
    first = attempt(2, limited, tmp_path)
    step = stopped(first, tmp_path / "run")
    assert " left (limit in 0:0" in first.stdout
    again = attempt(1, [*FLAGS, "--steps", str(step + 2)], tmp_path)
    assert again.returncode == 0, again.stderr
    assert "limit" not in again.stdout
    one, other = starts(tmp_path / "run")
    assert (one["ranks"], one["hosts"], one["mesh"], one["step"]) == (
        2,
        {socket.gethostname(): 2},
        {"dp": 2},
        0,
    )
    assert (other["ranks"], other["step"]) == (1, step)
    assert one["launcher"] == "mpirun"
    assert "slurm" not in one


def test_slurms_limit_is_asked_for_once(tmp_path: Path) -> None:
    write_text(tmp_path / "words.txt", 4000)
    program(tmp_path / "bin", "squeue", "echo 0:09")
    env = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1",
        "SLURM_RESTART_COUNT": "1", "SLURM_JOB_PARTITION": "cpu",
    }  # fmt: skip
    done = attempt(0, [*FLAGS, "--steps", "1000000"], tmp_path, env)
    stopped(done, tmp_path / "run")
    assert calls(tmp_path / "bin", "squeue") == [["--noheader", "--format=%L", "--jobs=7"]]
    (start,) = starts(tmp_path / "run")
    assert start["slurm"] == {
        "job": "7", "name": "", "cluster": "", "partition": "cpu", "nodes": "n1", "restarts": 1,
    }  # fmt: skip


@pytest.mark.parametrize("limit", ["none", "auto"])
def test_without_a_limit_a_run_ends_with_its_steps(tmp_path: Path, limit: str) -> None:
    """`none` inside of a job too."""
    write_text(tmp_path / "words.txt", 4000)
    program(tmp_path / "bin", "squeue", "echo 0:01")
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"} | (
        {"SLURM_JOB_ID": "7"} if limit == "none" else {}
    )
    done = attempt(0, [*FLAGS, "--steps", "3", "--time-limit", limit], tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path / "bin", "squeue") == []
