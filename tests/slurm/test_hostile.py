"""Names, paths and values that would be shell, on the real sbatch: refused, or what they say and no more.

A failure shows the words that arrived, or the log of the job.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from hostile import HOSTILE
from slurm.cluster import Cluster
from slurm.desk import ENDED, Desk, make_desk
from slurm.processes import wait_until
from slurm_fakes import write

from mpipar.errors import UsageError
from mpipar.launch.record import Record
from mpipar.launch.settings import read
from mpipar.launch.submit import submit

pytestmark = pytest.mark.launches

ECHO = """\
import json, os, sys
heard = {"words": sys.argv, "X": os.environ.get("X"), "here": os.getcwd()}
open(f"heard-{os.environ['SLURM_JOB_ID']}", "w").write(json.dumps(heard))
"""


def ended(desk: Desk, jobs: list[str]) -> None:
    for job in jobs:
        wait_until(lambda job=job: desk.about(job)["JobState"] in ENDED, 120, f"end of job {job}")  # type: ignore[misc]


def heard(desk: Desk, job: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((desk.folder / f"heard-{job}").read_text())
    return found


def check_harmless(desk: Desk) -> None:
    assert list(desk.folder.parent.rglob("pwned*")) == []


def test_what_a_file_says(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `mpipar submit`: the program, the directory of results, a variable."""
    monkeypatch.chdir(desk.folder)
    for name, value in desk.environment({}).items():
        monkeypatch.setenv(name, value)
    jobs: dict[str, tuple[str, str, Record]] = {}
    for text in HOSTILE:
        for field in ("program", "out", "environment"):
            with suppress(UsageError, OSError):
                made = submitted(desk, field, text)
                jobs[made.job] = (field, text, made)
    ended(desk, list(jobs))
    for job, (field, text, record) in jobs.items():
        about = desk.about(job)
        assert about["JobState"] == "COMPLETED", (field, text, Path(record.log).read_text())
        words, x = heard(desk, job)["words"], heard(desk, job)["X"]
        config = str(next(Path(record.out).glob("job-*.toml")))
        assert words == [text if field == "program" else "echo.py", "--config", config]
        assert x == (text if field == "environment" else "plain")
    check_harmless(desk)
    fields = [field for field, _, _ in jobs.values()]
    assert fields.count("program") >= 15, "of 29 texts"
    assert fields.count("environment") >= 20
    assert "out" in fields, "of two words"


def submitted(desk: Desk, field: str, text: str) -> Record:
    """A job of one rank with this text in this place. Raises UsageError where it is refused."""
    if (field, text) == ("out", "~root"):
        raise UsageError("a directory of root's, and meant so")
    program = text if field == "program" else "echo.py"
    if not (path := desk.folder / program).exists():  # a job may be reading it
        path.write_text(ECHO)
    run = {"out": text if field == "out" else f"run-{len(os.listdir(desk.folder))}"}
    variable = f"X={text}" if field == "environment" else "X=plain"
    slurm = {
        "program": program, "environment": [variable], "doctor": False, "venv": str(desk.venv), "time": "1:00",
        "signal_seconds": 0,
    }  # fmt: skip
    return submit(read(write(desk.folder / "a.toml", run, slurm)), datetime.now()).record


@pytest.fixture
def plain(desk: Desk) -> Desk:
    """A desk whose jobs say what they heard."""
    return without_training(desk)


def without_training(desk: Desk) -> Desk:
    (desk.folder / "train.py").write_text(ECHO)
    desk.edit("jobs/cpu.sbatch", '"${launch[@]}" python -m mpipar doctor', ":")
    return desk


def by_hand(desk: Desk, *options: str) -> subprocess.CompletedProcess[str]:
    small = ("--parsable", "--ntasks-per-node=1", "--time=1")
    return subprocess.run(
        ["sbatch", *small, *options, "jobs/cpu.sbatch", "a b", "$(touch pwned)"], cwd=desk.folder,
        env=desk.environment({"MPI": "MPICH"}), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_names_of_jobs_by_hand(plain: Desk) -> None:
    """jobs/cpu.sbatch with ``sbatch --job-name=TEXT``: the name is part of the directory of results and of the log."""
    jobs = {}
    for text in HOSTILE:
        done = by_hand(plain, f"--job-name={text}", "--output=log-%j")
        if done.returncode == 0:
            jobs[done.stdout.strip()] = text
    assert len(jobs) >= 20
    ended(plain, list(jobs))
    for job, text in jobs.items():
        log = (plain.folder / f"log-{job}").read_text(errors="replace")
        assert plain.about(job)["JobState"] == "COMPLETED", log
        words = heard(plain, job)["words"]
        assert words == ["train.py", "--out", f"runs/{text}-{job}", "a b", "$(touch pwned)"], log
    check_harmless(plain)


@pytest.mark.parametrize("option", ["--partition", "--account", "--time", "--nodes"])
def test_what_sbatch_itself_refuses(plain: Desk, option: str) -> None:
    texts = [text for text in HOSTILE if option != "--account" or text.strip()]
    accepted = [
        text for text in texts if by_hand(plain, f"{option}={text}", "--output=/dev/null").returncode == 0
    ]
    check_harmless(plain)
    assert accepted == [] or option == "--account", "a cluster without accounts takes any"


def test_a_directory_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    """The directory from which a job is submitted."""
    desk = without_training(make_desk(tmp_path / 'it\'s a "home"; $(touch pwned) `touch pwned` *', cluster))
    done = by_hand(desk, "--output=log-%j")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    ended(desk, [job])
    log = (desk.folder / f"log-{job}").read_text()
    assert (desk.folder / f"heard-{job}").exists(), log
    assert heard(desk, job)["here"] == str(desk.folder)
    check_harmless(desk)
