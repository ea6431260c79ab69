"""Where and how a run was started, for run.json: ranks and hosts as MPI has them, and SLURM's job."""

from __future__ import annotations

import platform
from datetime import datetime
from typing import Any

from mpipar.comm import Comm
from mpipar.job import launcher, slurm


def describe(ranks: Comm, now: datetime, **more: Any) -> dict[str, Any]:
    """One start. Collective: all ranks tell their host."""
    names: list[str] = ranks.allgather_object(host())
    told: dict[str, Any] = {
        "started": now.astimezone().isoformat(timespec="seconds"),
        "ranks": ranks.size,
        "hosts": {name: names.count(name) for name in dict.fromkeys(names)},  # with the ranks on each
        "launcher": launcher.started_by(),
        **more,
    }
    job = slurm.job()
    return {**told, "slurm": job} if job else told


def host() -> str:
    """MPI's name of the node, or without MPI that of the machine."""
    try:
        from mpipar.comm import mpi  # noqa: PLC0415  (importing it loads MPI)
    except (ImportError, RuntimeError):
        return platform.node()
    return mpi.host()
