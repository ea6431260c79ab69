"""SLURM's job that this process runs in, if any: what a run writes down of it, and when it ends.

Ranks, hosts and places come from MPI; of SLURM's variables only those are read that say nothing of a rank.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from mpipar.config.times import seconds
from mpipar.errors import UsageError

PATIENCE = 10.0  # seconds that squeue has
JOB = re.compile(r"\d+(_\d+)?", re.ASCII)


def job(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Job id (``12``, of an array ``12_3``), nodes, partition and how often it was requeued; empty outside SLURM."""
    env = os.environ if env is None else env
    if not (number := job_id(env)):
        return {}
    restarts = env.get("SLURM_RESTART_COUNT", "0")
    return {
        "job": number,
        "name": env.get("SLURM_JOB_NAME", ""),
        "cluster": env.get("SLURM_CLUSTER_NAME", ""),
        "partition": env.get("SLURM_JOB_PARTITION", ""),
        "nodes": env.get("SLURM_JOB_NODELIST", ""),
        "restarts": int(restarts) if restarts.isdecimal() else 0,
    }


def job_id(env: Mapping[str, str] | None = None) -> str:
    """As squeue and scontrol take it: ``12``, of an array ``12_3``; empty outside SLURM."""
    env = os.environ if env is None else env
    array, task = env.get("SLURM_ARRAY_JOB_ID", ""), env.get("SLURM_ARRAY_TASK_ID", "")
    number = f"{array}_{task}" if array else env.get("SLURM_JOB_ID", "")
    return number if JOB.fullmatch(number) else ""


def cpus_per_task(env: Mapping[str, str] | None = None) -> int:
    """What was asked for by --cpus-per-task; 0 where nobody asked, and outside SLURM."""
    asked = (os.environ if env is None else env).get("SLURM_CPUS_PER_TASK", "")
    return int(asked) if asked.isascii() and asked.isdecimal() else 0


def end_of_job() -> float | None:
    """When SLURM will end this job, in seconds since the epoch; None outside of one, without a limit, or untold."""
    if not (number := job_id()):
        return None
    told = os.environ.get("SLURM_JOB_END_TIME", "")  # SLURM sets it since 23.02
    if told.isdecimal():
        return float(told)
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", "--format=%L", f"--jobs={number}"], timeout=PATIENCE, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # in a container there is no squeue
        return None
    left = time_left(asked.stdout)
    return None if left is None else time.time() + left


def time_left(text: str) -> float | None:
    """Seconds of squeue's ``%L``; None of UNLIMITED, NOT_SET and the like.

    >>> time_left("1-02:00:00"), time_left("1:30"), time_left("UNLIMITED")
    (93600.0, 90.0, None)
    """
    try:
        return float(seconds(text.strip()))
    except UsageError:
        return 0.0 if text.strip() == "0:00" else None
