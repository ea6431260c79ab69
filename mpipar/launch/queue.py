"""SLURM's commands, each called with a list of words and never by a shell, and what they print."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from mpipar.errors import UsageError
from mpipar.job.launcher import clean_environment
from mpipar.launch.script import COMMENT

PATIENCE = 60.0  # seconds that a command has
SET = re.compile(r"^#SBATCH --([a-z-]+)", re.MULTILINE)
VARIABLES = {
    "time": "TIMELIMIT",
    "no-requeue": "REQUEUE",
    "requeue": "NO_REQUEUE",
}  # not by the option's name


class Live(NamedTuple):
    """A job as squeue knows it."""

    state: str
    left: str  # of its time
    reason: str  # why it waits
    out: str  # of a job that mpipar submitted


def call(words: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs one of SLURM's commands, `text` as its input. Raises UsageError where it is not there or does not answer."""
    try:
        return subprocess.run(
            words, input=text, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=PATIENCE,
            check=False, env=environment(text),
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError(
            f"there is no {words[0]} here: run this on a login node of a cluster with SLURM; "
            "mpipar submit CONFIG.toml --dry-run prints the script anywhere"
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{words[0]} gave no answer in {PATIENCE:g} s: is SLURM's controller up?") from None


def environment(text: str) -> dict[str, str]:
    """Ours, without what a launcher set, and without the SBATCH_ variables that would win over a line of the script.

    Those that stand for what the script leaves open, such as a person's usual account, stay.
    """
    own = {f"SBATCH_{VARIABLES.get(name, name.upper().replace('-', '_'))}" for name in SET.findall(text)}
    return {name: value for name, value in clean_environment().items() if name not in own}


def is_there(command: str) -> bool:
    return shutil.which(command) is not None


def test_only(text: str) -> str:
    """What sbatch says it would do with a script. Raises UsageError with its words where it refuses."""
    done = call(["sbatch", "--test-only"], text)
    if done.returncode:
        raise UsageError(f"sbatch refuses the script: {said(done)}")
    return said(done)


def submit(text: str) -> str:
    """Hands a script to SLURM; the job's number."""
    done = call(["sbatch", "--parsable"], text)
    number = done.stdout.strip().partition(";")[0]  # ;cluster may follow
    if done.returncode or not number.isdecimal():
        raise UsageError(f"sbatch refuses the script: {said(done)}")
    return number


def said(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines()]
    return "; ".join(line for line in lines if line.strip()) or f"exit code {done.returncode}"


def live() -> dict[str, Live]:
    """My jobs by number, those that ended a short time ago included. Raises UsageError where squeue fails."""
    done = call(["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%L|%r|%k"])
    if done.returncode:
        raise UsageError(f"squeue failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    found = {}
    for line in done.stdout.splitlines():
        fields = line.split("|", 4)
        if len(fields) == 5:
            number, state, left, reason, comment = fields
            out = comment.removeprefix(COMMENT) if comment.startswith(COMMENT) else ""
            found[number.strip()] = Live(state, left, reason, out)
    return found


def ended(numbers: Sequence[str]) -> dict[str, str]:
    """The states of jobs that squeue has forgotten, where the cluster keeps accounts; else nothing."""
    if not numbers or not is_there("sacct"):
        return {}
    done = call(["sacct", "-X", "-n", "-P", "--format=JobID,State", f"--jobs={','.join(numbers)}"])
    rows = [line.partition("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {number: state.split()[0] for number, _, state in rows if state.split()}


def cancel(numbers: Sequence[str]) -> None:
    """Ends jobs; one that runs is sent SIGTERM first. Raises UsageError with scancel's words where it fails."""
    done = call(["scancel", *numbers])
    if done.returncode:
        raise UsageError(f"scancel failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
