"""``mpipar logs JOB``: the end of a job's log, and with --follow what comes. Starts no MPI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpipar.cli.command import Command, refuse_ranks
from mpipar.config.flags import check_limits, flag
from mpipar.errors import UsageError
from mpipar.launch import queue
from mpipar.launch.status import is_over, named
from mpipar.log import readable

BLOCK = 1 << 16
LOOK, ASK = 0.5, 10.0  # seconds between looks at the file, and between questions to squeue


@dataclass(frozen=True, slots=True)
class Logs:
    """The flags of `mpipar logs`."""

    job: tuple[str, ...] = flag((), "a job's number, or the directory of its run", alone=True)
    lines: int = flag(40, "of the end of the log", least=1)
    follow: bool = flag(False, "go on with what is written, until the job ends or Ctrl-C")


def run(flags: Logs) -> None:
    refuse_ranks("logs")
    check_limits(flags)
    if len(flags.job) != 1:
        raise UsageError(
            f"logs takes one JOB, not {len(flags.job)}: write  mpipar logs JOB, a number or a directory"
        )
    record = named(flags.job[0])[-1]
    path = Path(record.log)
    if not path.exists():
        raise UsageError(f"{path} is not there yet: the job has not started; see  mpipar jobs {record.out}")
    print(readable(last_lines(path, flags.lines)), end="", flush=True)
    if flags.follow:
        for text in following(path, record.job):
            print(readable(text), end="", flush=True)


def last_lines(path: Path, count: int) -> bytes:
    """The last lines of a file, however long it is."""
    data = b""
    with path.open("rb") as file:
        start = file.seek(0, 2)
        while start > 0 and data.count(b"\n") <= count:
            step = min(BLOCK, start)
            start = file.seek(start - step)
            data = file.read(step) + data
    return b"".join(data.splitlines(keepends=True)[-count:])


def following(path: Path, job: str) -> Iterator[bytes]:
    """What is appended to a log, until squeue says that the job is over, or knows it no longer."""
    asked = time.monotonic()
    with path.open("rb") as file:
        file.seek(0, 2)
        while True:
            if data := file.read():
                yield data
            if time.monotonic() - asked > ASK:
                asked, live = time.monotonic(), queue.live()
                if job not in live or is_over(live[job].state):
                    yield file.read()
                    return
            try:
                time.sleep(LOOK)
            except KeyboardInterrupt:
                sys.stdout.flush()
                return


COMMAND = Command("shows the end of a job's log", Logs, run)
