"""From a checked file to a job: what would be submitted, and submitting it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mpipar.checkpoint.index import versions
from mpipar.checkpoint.run import check_start
from mpipar.config import TrainConfig, as_toml
from mpipar.errors import UsageError
from mpipar.launch import queue, record
from mpipar.launch.record import Record
from mpipar.launch.script import Place, script
from mpipar.launch.settings import Submission
from mpipar.log import make_out
from mpipar.log.out import directory


class Submitted(NamedTuple):
    """A job, and the file that records it."""

    record: Record
    path: Path


def dry(submission: Submission, now: datetime) -> str:
    """The script; nothing is made. A run without `out` gets its directory at submission: here its likely name."""
    out = directory(submission.run.out)
    place = placed(out if submission.run.out else out / f"{now:%Y-%m-%d-%H%M%S}", "job-1.toml")
    return script(submission, place, versions()["mpipar"])


def submit(submission: Submission, now: datetime) -> Submitted:
    """Checks, makes the run's directory, writes settings and script there, submits. Raises UsageError at each step."""
    check_start(submission.run)
    check_program(submission)
    queue.test_only(dry(submission, now))
    out = make_out(submission.run.out, now).absolute()
    config = record.first_free(out)
    place = placed(out, config.name)
    text = script(submission, place, versions()["mpipar"])
    config.write_text(settings(submission, out), encoding="utf-8")
    config.with_suffix(".sbatch").write_text(text, encoding="utf-8")
    number = queue.submit(text)
    made = Record(
        number, str(out), place.log.replace("%j", number), submission.run.steps, submission.slurm.ranks,
        submission.slurm.name, now.isoformat(" ", "seconds"),
    )  # fmt: skip
    record.write(made, config.with_suffix(".json"))
    return Submitted(made, config.with_suffix(".json"))


def check_program(submission: Submission) -> None:
    """Paths that the job would miss after it has waited in the queue."""
    slurm = submission.slurm
    activate = f"{slurm.venv}/bin/activate" if slurm.venv else ""
    for key, path in (("program", slurm.program), ("venv", activate), ("container", slurm.container)):
        if path and not Path(path).expanduser().is_file():
            raise UsageError(f"{submission.path}: {key}: there is no file {path}")


def placed(out: Path, config: str) -> Place:
    out = out.absolute()
    return Place(Path.cwd(), out, out / config)


def settings(submission: Submission, out: Path) -> str:
    """The run's settings with the directory that was made for it."""
    run: TrainConfig = replace(submission.run, out=str(out))
    return as_toml(run, f"the settings of [run] in {submission.path} as they were submitted")
