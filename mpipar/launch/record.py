"""What is written down of a submission, in the run's directory: ``job-1.json``, and beside it settings and script."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from mpipar.errors import UsageError

RECORD = re.compile(r"job-(\d+)\.json", re.ASCII)
JOB_ID = re.compile(r"\d{1,12}(_\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Record:
    """A job that was submitted."""

    job: str  # SLURM's number of it
    out: str  # absolute
    log: str
    steps: int
    ranks: int
    name: str
    submitted: str  # date and time

    @property
    def metrics(self) -> Path:
        return Path(self.out) / "metrics.jsonl"


def first_free(out: Path) -> Path:
    """``job-N.toml`` of the first N that has none, made empty: two submissions do not meet. Raises UsageError."""
    for number in count(1):
        path = out / f"job-{number}.toml"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{out} cannot be written: {error.strerror}") from None
        return path
    raise AssertionError("count() does not end")


def write(record: Record, path: Path) -> None:
    path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Record | None:
    """None of what is no record, or one of a version that had other fields."""
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if isinstance(record.job, str) and JOB_ID.fullmatch(record.job) else None


def below(directories: Sequence[Path]) -> list[Record]:
    """The records of runs in these directories or one level below them, in the order of their jobs."""
    inner = [path for directory in directories for path in (directory, *directory.glob("*/"))]
    found = {record.job: record for path in inner for record in of_run(path)}
    return sorted(found.values(), key=by_number)


def of_run(directory: Path) -> list[Record]:
    """The jobs that were submitted to this one directory, in their order."""
    paths = [path for path in directory.glob("job-*.json") if RECORD.fullmatch(path.name)]
    return sorted(filter(None, map(read, paths)), key=by_number)


def by_number(record: Record) -> list[int]:
    return [int(part) for part in record.job.split("_")]
