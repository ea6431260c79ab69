"""``mpipar cancel JOB ...``: ends submitted jobs. A run that goes on at that moment saves a checkpoint first."""

from __future__ import annotations

from dataclasses import dataclass

from mpipar.cli.command import Command, refuse_ranks
from mpipar.config.flags import flag
from mpipar.errors import UsageError
from mpipar.launch import queue
from mpipar.launch.status import is_over, named


@dataclass(frozen=True, slots=True)
class Cancel:
    """The flags of `mpipar cancel`."""

    job: tuple[str, ...] = flag((), "numbers of jobs, or directories of runs", alone=True)


def run(flags: Cancel) -> None:
    """Only jobs that mpipar submitted: their records are looked up."""
    refuse_ranks("cancel")
    if not flags.job:
        raise UsageError("cancel needs a JOB: write  mpipar cancel JOB, a number or the directory of a run")
    live = queue.live()
    wanted = [record.job for word in flags.job for record in named(word, live)]
    numbers = list(dict.fromkeys(job for job in wanted if job in live and not is_over(live[job].state)))
    if not numbers:
        print(f"nothing to cancel: {', '.join(dict.fromkeys(wanted))} ended before")
        return
    queue.cancel(numbers)
    print(f"cancelled: {', '.join(numbers)}")


COMMAND = Command("cancels submitted jobs; a running one saves a checkpoint first", Cancel, run)
