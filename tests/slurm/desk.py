"""A user's directory on the cluster, and the commands that a user gives there.

The directory has jobs/ and train.py, as a checkout has. A job finds the Python of these tests, or of another venv, as
a user's job does: by VENV in its environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import write_text
from slurm.cluster import Cluster
from slurm.processes import wait_until

from mpipar.job.launcher import clean_environment

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
TIMES = ("tokens_per_s", "step_s", "comm_s")  # fields of a record that no two runs share
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE")
# Two cores are real: compiling kernels would take most of the time of a job this small.
KERNELS = {"MPIPAR_KERNELS": "numpy"}
HASTE = {**KERNELS, "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


@dataclass(frozen=True)
class Desk:
    """Commands in `folder`, on a cluster."""

    folder: Path
    cluster: Cluster
    venv: Path = VENV

    def run(self, *command: str, **variables: str) -> str:
        """What a command prints. It must succeed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(variables), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        ours = {name: value for name, value in clean_environment().items() if not name.startswith("PYTEST_")}
        if "PYTHONPATH" in ours:
            entries = ours["PYTHONPATH"].split(os.pathsep)
            ours["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, entries))
        return ours | HASTE | self.cluster.environment | {"VENV": str(self.venv)} | dict(variables)

    def submit(self, script: str, *words: str, options: str = "", **variables: str) -> str:
        """The id of a new job: ``sbatch options jobs/script words`` with these variables."""
        told = self.run("sbatch", "--parsable", *options.split(), f"jobs/{script}", *words, **variables)
        return told.strip().partition(";")[0]

    def edit(self, file: str, old: str, new: str) -> None:
        """Changes a line, as a user does with an editor."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{file} has no {old}"
        path.write_text(text.replace(old, new))

    def finish(self, job: str, seconds: float = 120) -> dict[str, str]:
        """Waits for the end of a job, and returns what SLURM then says of it. After `seconds` it is cancelled."""
        try:
            wait_until(lambda: self.about(job)["JobState"] in ENDED, seconds, f"end of job {job}", self.logs)
        except TimeoutError:
            self.run("scancel", job)  # or those after it would wait for its nodes
            raise
        return self.about(job)

    def succeed(self, job: str, seconds: float = 120) -> str:
        """Waits for the end of a job, which must be a good one, and returns its log."""
        about = self.finish(job, seconds)
        assert (about["JobState"], about["ExitCode"]) == ("COMPLETED", "0:0"), self.logs()
        return self.log(about)

    def about(self, job: str) -> dict[str, str]:
        """``scontrol show job`` by field: JobState, ExitCode, Restarts, NodeList …"""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", "-o", job)))

    def log(self, about: Mapping[str, str]) -> str:
        return Path(about["StdOut"]).read_text()

    def logs(self) -> str:
        """All logs in the directory: the text of a failure."""
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in sorted(self.folder.glob("*.log")))

    def steps(self, out: str) -> int:
        """How many steps a run has written."""
        file = self.folder / out / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def records(self, out: str) -> list[dict[str, Any]]:
        """metrics.jsonl without the times."""
        lines = (self.folder / out / "metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def make_desk(folder: Path, cluster: Cluster) -> Desk:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    shutil.copy(ROOT / "train.py", folder)
    write_text(folder / "words.txt")
    return Desk(folder, cluster)
