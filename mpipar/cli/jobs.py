"""``mpipar jobs``: submitted runs, with what squeue and their metrics say of them. Starts no MPI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpipar.cli.command import Command, refuse_ranks
from mpipar.config.flags import flag
from mpipar.errors import UsageError
from mpipar.launch.status import jobs, table
from mpipar.log.out import RUNS


@dataclass(frozen=True, slots=True)
class Jobs:
    """The flags of `mpipar jobs`."""

    directories: tuple[str, ...] = flag(
        (), "of runs, or of several runs (default: runs, and all of mine in the queue)", alone=True
    )


def run(flags: Jobs) -> None:
    refuse_ranks("jobs")
    named = [Path(each).expanduser() for each in flags.directories or (RUNS,)]
    if missing := next((each for each in named if flags.directories and not each.is_dir()), None):
        raise UsageError(f"{missing} is no directory: name that of a run, or one that holds several")
    found = jobs(named, and_mine=not flags.directories)
    print(table(found) if found else f"no jobs: none was submitted from {', '.join(map(str, named))}")


COMMAND = Command("shows submitted runs: state, step, loss, tokens/s, time left", Jobs, run)
