"""Ten interruptions in a row on one run: in the end metrics.jsonl is that of a run which was left alone.

A failure names the seed, with which the same steps and interruptions come again, and the first line that differs.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import TRAIN, attempt, write_text

from mpipar.testing.launch import _descendants, _environment, find_mpirun

pytestmark = pytest.mark.launches

STEPS, DRILLS = 1000, 10
FLAGS = (
    f"--steps {STEPS} --save-every 40 --batch 4 --context 8 --width 8 --heads 2 --layers 1 --warmup 100 --dropout 0.1 "
    "--micro-batch 1 --val-every 250 --val-batches 1 --sample 0 --log-every 1000 --data words.txt"
)
TIMES = ("tokens_per_s", "step_s", "comm_s")
EXTRA = os.environ.get("MPIPAR_DRILL_FLAGS", "")  # by hand: --save-async


def records(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in found]


def lines(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def start(here: Path, out: str) -> subprocess.Popen[bytes]:
    command = [find_mpirun(), "-n", "2", sys.executable, str(TRAIN), *shlex.split(FLAGS + " " + EXTRA)]
    with (here / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [*command, "--resume", "auto", "--out", out],
            cwd=here, env=_environment({"OMP_NUM_THREADS": "1"}), stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that run train.py, below the launcher."""
    found = []
    for pid in _descendants(process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0] == sys.executable.encode():
            found.append(pid)
    return found


def interrupt(process: subprocess.Popen[bytes], kind: str) -> None:
    """One drill; returns when no rank is left."""
    ranks = ranks_of(process)
    target = {"USR1": process.pid, "kill a rank": ranks[-1], "kill mpirun": process.pid}[kind]
    os.kill(target, signal.SIGUSR1 if kind == "USR1" else signal.SIGKILL)
    code = process.wait(30)
    if kind == "USR1":
        assert code in (0, 85)  # 0: it was at its last steps
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline, f"ranks outlive their launcher: {kind}"
        time.sleep(0.01)


@pytest.mark.parametrize("seed", [int(os.environ.get("MPIPAR_DRILL_SEED", "1"))])
def test_ten_interruptions_leave_the_curve_of_one_run(tmp_path: Path, seed: int) -> None:
    write_text(tmp_path / "words.txt", 4000)
    whole = attempt(2, [*shlex.split(FLAGS), "--out", "whole"], tmp_path)
    assert whole.returncode == 0, whole.stderr
    draw, out = random.Random(seed), tmp_path / "drilled"
    kinds = draw.sample(["USR1", "kill a rank", "kill mpirun"], counts=[4, 3, 3], k=DRILLS)
    told = []
    for drill, kind in enumerate(kinds):
        process = start(tmp_path, "drilled")
        wanted = draw.randrange(STEPS * drill // DRILLS, STEPS * (drill + 1) // DRILLS)
        while lines(out) <= wanted and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, (tmp_path / "said.txt").read_text()
        interrupt(process, kind)
        told.append((wanted, kind, lines(out)))
    assert start(tmp_path, "drilled").wait(60) == 0, (tmp_path / "said.txt").read_text()
    expected, found = records(tmp_path / "whole"), records(out)
    odd = [(one, other) for one, other in zip(expected, found, strict=False) if one != other]
    assert not odd, (seed, told, odd[0])
    assert [record["step"] for record in found] == list(range(1, STEPS + 1)), told
