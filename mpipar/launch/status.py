"""What became of submitted runs: squeue's word on each job beside the last line of its metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpipar.errors import UsageError
from mpipar.launch import queue, record
from mpipar.launch.queue import Live
from mpipar.launch.record import JOB_ID, Record
from mpipar.log import duration
from mpipar.log.out import RUNS

TAIL = 1 << 16  # bytes from the end of metrics.jsonl: many lines
PACED = 20  # steps over which the pace is taken
OVER = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
HEAD = ("job", "name", "state", "step", "loss", "tokens/s", "to go", "time left", "results")


class Status(NamedTuple):
    """A job: its record, squeue's word if it still has one, and the last records of its run."""

    record: Record
    live: Live | None
    state: str
    last: list[dict[str, Any]]


def jobs(directories: Sequence[Path], *, and_mine: bool = True) -> list[Status]:
    """The jobs whose runs lie in these directories, or one level below; `and_mine`: all that squeue knows, too."""
    live = queue.live()
    known = [Path(each.out) for each in live.values() if each.out and and_mine]
    records = record.below([*directories, *known])
    forgotten = [each.job for each in records if each.job not in live]
    ended = queue.ended(forgotten)
    return [status(each, live.get(each.job), ended.get(each.job, "")) for each in records]


def status(record: Record, live: Live | None, ended: str) -> Status:
    last = tail(record.metrics)
    done = last[-1]["step"] if last else 0
    unknown = "finished" if done >= record.steps else "ended"
    return Status(record, live, live.state if live else ended or unknown, last)


def tail(metrics: Path) -> list[dict[str, Any]]:
    """The last whole records of a file that may be written at this moment; none where there is no file."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return []
    return [found for line in lines[-PACED:] if (found := parsed(line))]


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


def table(statuses: Sequence[Status]) -> str:
    """A line a job, in columns."""
    rows = [HEAD, *map(row, statuses)]
    widths = [max(len(each[column]) for each in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(each, widths, strict=True)).rstrip()
        for each in rows
    )


def row(status: Status) -> tuple[str, ...]:
    record, live, state, last = status
    step = f"{last[-1]['step']}/{record.steps}" if last else f"-/{record.steps}"
    running = live is not None and state == "RUNNING"
    waits = f"{state} ({live.reason})" if live and state == "PENDING" else state
    seconds = sum(each.get("step_s") or 0 for each in last)
    tokens = sum((each.get("tokens_per_s") or 0) * (each.get("step_s") or 0) for each in last)
    to_go = duration((record.steps - last[-1]["step"]) * seconds / len(last)) if last and running else "-"
    return (
        record.job, record.name, waits, step, loss_of(last), f"{tokens / seconds:,.0f}" if seconds else "-", to_go,
        live.left if live and running else "-", shown(record.out),
    )  # fmt: skip


def loss_of(last: Sequence[dict[str, Any]]) -> str:
    loss = last[-1].get("loss") if last else None
    return f"{loss:.4f}" if isinstance(loss, int | float) else "-"


def shown(path: str) -> str:
    """Relative to here where it lies below."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


# ---- one job by its number or by the directory of its run ---------------------------------------------------------


def named(word: str, live: dict[str, Live] | None = None) -> list[Record]:
    """The jobs of a number or of a run's directory, the newest last. Raises UsageError where there is none."""
    if JOB_ID.fullmatch(word):
        known = [Path(each.out) for each in (queue.live() if live is None else live).values() if each.out]
        found = [each for each in record.below([Path(RUNS), Path("."), *known]) if each.job == word]
        missing = f"no run below {RUNS}, and none of your jobs in the queue, has job {word}: name the run's directory"
    else:
        found = record.of_run(Path(word).expanduser())
        missing = f"{word}: no job was submitted from there; name a job's number or the directory of a run"
    if not found:
        raise UsageError(missing)
    return found


def is_over(state: str) -> bool:
    return state.startswith(OVER)
