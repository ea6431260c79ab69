"""``mpipar doctor``: whether this start is sound, alone or under mpirun or srun. The one command that starts MPI."""

from __future__ import annotations

from dataclasses import dataclass

from mpipar.cli.command import Command
from mpipar.errors import LauncherError
from mpipar.job import world
from mpipar.job.launcher import launched_rank
from mpipar.launch import census
from mpipar.launch.findings import findings
from mpipar.launch.report import report


@dataclass(frozen=True, slots=True)
class Doctor:
    """`mpipar doctor` takes no flags."""


def run(flags: Doctor) -> int:
    """0 where nothing is wrong, 1 else, on all ranks; rank 0 says it."""
    try:
        taken = census.take()
    except (
        LauncherError
    ) as error:  # each rank is alone with it: by its launcher's word one of them is the first
        if launched_rank() == 0:
            print(f"WRONG: {error}\n1 thing is wrong", flush=True)
        return 1
    found = findings(taken)
    if world().rank == 0:
        print(report(taken, found), flush=True)
    return int(any(finding.wrong for finding in found))


COMMAND = Command(
    "says whether MPI, launcher, nodes, cores and devices fit: mpirun -n 4 mpipar doctor", Doctor, run
)
