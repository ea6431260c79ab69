"""`mpipar submit`, `jobs`, `logs`, `cancel` with SLURM's commands replaced. A failure shows what was said or called."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from slurm_fakes import calls, on_path, program, write

from mpipar.cli import main
from mpipar.config import parse
from mpipar.launch.record import Record
from mpipar.launch.record import write as write_record
from mpipar.testing import launch

Capture = pytest.CaptureFixture[str]
SBATCH = """
text=$(cat)
case "$1" in
--test-only) echo "sbatch: Job 41 to start at noon" >&2;;
--parsable) printf "%s" "$text" > submitted; echo "42;lab";;
esac
"""
OUTPUT = (
    "42|RUNNING|9:30|None|mpipar {here}/runs/a\n43|PENDING|1:00:00|Priority|mpipar {here}/runs/b\n"
    "9|RUNNING|1:00|None|of another program"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with train.py, a file to submit, and programs that stand for SLURM's."""
    monkeypatch.chdir(tmp_path)
    for name in ("cli", "cli.command"):
        monkeypatch.setattr(f"mpipar.{name}.launched_size", lambda: 1)
    shutil.copy(Path(__file__).parents[2] / "train.py", tmp_path)
    write(
        tmp_path / "a.toml", {"out": "runs/a", "steps": 50}, {"nodes": 2, "tasks_per_node": 2, "name": "gpt"}
    )
    program(tmp_path / "bin", "sbatch", SBATCH)
    program(tmp_path / "bin", "squeue", f'printf "{OUTPUT.format(here=tmp_path)}"')
    program(tmp_path / "bin", "scancel", "")
    program(tmp_path / "bin", "sacct", "exit 1")
    on_path(monkeypatch, tmp_path / "bin")
    return tmp_path


def said(capsys: Capture, line: str, code: int = 0) -> str:
    """What a command prints; on stderr where it fails."""
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    assert (out if code else err) == ""
    return str(err if code else out)


def submitted(here: Path, job: str, name: str, **more: Any) -> Path:
    """The directory of a run that was submitted, 50 steps long."""
    out = here / "runs" / name
    out.mkdir(parents=True)
    told = {
        "log": f"{out}/slurm-{job}.out",
        "steps": 50,
        "ranks": 4,
        "name": "gpt",
        "submitted": "2026-11-28 04:00:00",
    }
    write_record(Record(job=job, out=str(out), **told), out / "job-1.json")
    return out


def metrics(out: Path, *steps: int) -> None:
    lines = [
        json.dumps({"step": n, "loss": 5 - n / 10, "step_s": 2.0, "tokens_per_s": 1000 + n}) for n in steps
    ]
    (out / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"step": 99, "torn')


# ---- submit -----------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_and_makes_nothing(here: Path, capsys: Capture) -> None:
    before = set(here.rglob("*"))
    text = said(capsys, "submit a.toml --dry-run")
    assert text.startswith("#!/bin/bash\n")
    assert f'#SBATCH --output="{here}/runs/a/slurm-%j.out"\n' in text
    assert set(here.rglob("*")) == before


def test_a_job_is_checked_submitted_and_recorded(here: Path, capsys: Capture) -> None:
    text = said(capsys, "submit a.toml")
    out = here / "runs" / "a"
    assert text.splitlines()[:2] == [
        f"job 42: 4 ranks, 50 steps, results in {out}",
        f"  its log will be {out}/slurm-42.out",
    ]
    assert calls(here / "bin", "sbatch") == [["--test-only"], ["--parsable"]]
    assert {path.name for path in out.iterdir()} == {"job-1.json", "job-1.sbatch", "job-1.toml"}
    assert (here / "submitted").read_text() == (out / "job-1.sbatch").read_text().rstrip("\n")
    record = json.loads((out / "job-1.json").read_text())
    assert (record["job"], record["out"], record["steps"], record["ranks"]) == ("42", str(out), 50, 4)
    config = parse(["--config", str(out / "job-1.toml")])
    assert (config.out, config.steps) == (str(out), 50)
    said(capsys, "submit a.toml")
    assert {path.name for path in out.iterdir()} >= {"job-1.json", "job-2.json"}, (
        "a second job keeps the first's files"
    )


def test_a_variable_does_not_win_over_the_file(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch reads SBATCH_NAME=value too, and takes it over the line of the script."""
    program(here / "bin", "sbatch", f"env > {here}/env; {SBATCH}")
    for name in ("PARTITION", "TIMELIMIT", "REQUEUE", "ACCOUNT"):
        monkeypatch.setenv(f"SBATCH_{name}", "other")
    write(here / "a.toml", {"out": "runs/a"}, {"partition": "cpu"})
    said(capsys, "submit a.toml")
    left = [line for line in (here / "env").read_text().splitlines() if line.startswith("SBATCH_")]
    assert left == ["SBATCH_ACCOUNT=other"], "the file names no account"


def test_a_run_without_a_directory_gets_one_of_its_own(here: Path, capsys: Capture) -> None:
    write(here / "b.toml")
    said(capsys, "submit b.toml")
    (out,) = (here / "runs").iterdir()
    assert tomllib.loads((out / "job-1.toml").read_text())["out"] == str(out)


def test_what_sbatch_refuses_is_told_and_nothing_is_made(here: Path, capsys: Capture) -> None:
    program(here / "bin", "sbatch", 'echo "sbatch: error: invalid partition specified: nope" >&2; exit 1')
    text = said(capsys, "submit a.toml", code=2)
    assert text == "mpipar: sbatch refuses the script: invalid partition specified: nope\n"
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("submit", "submit takes one CONFIG.toml, not 0: write  mpipar submit CONFIG.toml"),
        ("submit a.toml a.toml", "submit takes one CONFIG.toml, not 2"),
        ("submit none.toml", "none.toml cannot be read: No such file or directory"),
        ("submit venv.toml", "venv.toml: venv: there is no file nowhere/bin/activate"),
        ("submit program.toml", "program.toml: program: there is no file other.py"),
        ("submit old.toml", "--out old holds the metrics.jsonl of another run"),
        ("jobs nowhere", "nowhere is no directory"),
        ("logs", "logs takes one JOB, not 0"),
        ("logs 42", "no run below runs, and none of your jobs in the queue, has job 42"),
        ("logs nowhere", "nowhere: no job was submitted from there"),
        ("logs 42 --lines 0", "--lines 0: must be a whole number, at least 1"),
        ("cancel", "cancel needs a JOB"),
        ("cancel 9", "no run below runs, and none of your jobs in the queue, has job 9"),
        ("cancel $(ls)", "$(ls): no job was submitted from there"),
        ("cancel --all", "unknown flag --all"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(here: Path, capsys: Capture, line: str, message: str) -> None:
    write(here / "venv.toml", slurm={"venv": "nowhere"})
    write(here / "program.toml", slurm={"program": "other.py"})
    write(here / "old.toml", {"out": "old"})
    (here / "old").mkdir()
    (here / "old" / "metrics.jsonl").touch()
    text = said(capsys, line, code=2)
    assert text.startswith(f"mpipar: {message}")
    assert text.count("\n") == 1
    assert calls(here / "bin", "scancel") == []
    assert ["--parsable"] not in calls(here / "bin", "sbatch")


@pytest.mark.parametrize("line", ["submit a.toml", "jobs", "cancel runs/a", "logs 42"])
def test_without_slurm_it_says_so(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    submitted(here, "42", "b")
    monkeypatch.setenv("PATH", "/nonexistent")
    text = said(capsys, line.replace("runs/a", "runs/b"), code=2)
    assert "run this on a login node of a cluster with SLURM" in text


# ---- jobs, logs, cancel -------------------------------------------------------------------------------------------


def test_jobs_join_the_queue_and_the_metrics(here: Path, capsys: Capture) -> None:
    metrics(submitted(here, "42", "a"), 9, 10)
    submitted(here, "43", "b")
    metrics(submitted(here, "40", "c"), 50)
    metrics(submitted(here, "39", "d"), 20)
    program(here / "bin", "sacct", 'echo "39|CANCELLED by 0"')
    lines = [line.split("  ") for line in said(capsys, "jobs").splitlines()]
    rows = [[word.strip() for word in line if word] for line in lines]
    assert rows == [
        ["job", "name", "state", "step", "loss", "tokens/s", "to go", "time left", "results"],
        ["39", "gpt", "CANCELLED", "20/50", "3.0000", "1,020", "-", "-", "runs/d"],
        ["40", "gpt", "finished", "50/50", "0.0000", "1,050", "-", "-", "runs/c"],
        ["42", "gpt", "RUNNING", "10/50", "4.0000", "1,010", "1:20", "9:30", "runs/a"],
        ["43", "gpt", "PENDING (Priority)", "-/50", "-", "-", "-", "-", "runs/b"],
    ]
    assert calls(here / "bin", "sacct")[0][-1] == "--jobs=39,40"


def test_jobs_in_the_queue_are_found_from_anywhere(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(here, "42", "a")
    submitted(here, "41", "old")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    text = said(capsys, "jobs")
    assert f"{here}/runs/a" in text
    assert "runs/old" not in text
    assert "runs/old" in said(capsys, "jobs ../runs")


def test_no_jobs(here: Path, capsys: Capture) -> None:
    assert said(capsys, "jobs") == "no jobs: none was submitted from runs\n"


@pytest.mark.parametrize("text", ["{}", "[]", "nothing", '{"job": "$(ls)"}'])
def test_what_is_no_record_is_passed_over(here: Path, capsys: Capture, text: str) -> None:
    (submitted(here, "42", "a") / "job-2.json").write_text(text)
    assert said(capsys, "jobs").count("\n") == 2


def test_logs_show_the_end_and_nothing_that_steers_a_terminal(here: Path, capsys: Capture) -> None:
    out = submitted(here, "42", "a")
    assert "is not there yet: the job has not started" in said(capsys, "logs 42", code=2)
    (out / "slurm-42.out").write_text("".join(f"line {n}\n" for n in range(100_000)) + "\x1b[2Jend")
    assert said(capsys, "logs 42 --lines 2") == "line 99999\n\N{REPLACEMENT CHARACTER}[2Jend"
    assert said(capsys, "logs runs/a").count("\n") == 39


def test_following_ends_with_the_job(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    out = submitted(here, "44", "a")
    log = out / "slurm-44.out"
    log.write_text("so far\n")
    program(
        here / "bin",
        "squeue",
        f'echo more >> "{log}"; [ -e seen ] || echo "44|RUNNING|1:00|None|"; touch seen',
    )
    monkeypatch.setattr("mpipar.cli.logs.ASK", 0.0)
    monkeypatch.setattr("mpipar.cli.logs.LOOK", 0.01)
    assert said(capsys, "logs runs/a --follow") == "so far\nmore\nmore\n"
    assert len(calls(here / "bin", "squeue")) == 2


def test_cancel_names_the_jobs_that_live(here: Path, capsys: Capture) -> None:
    submitted(here, "42", "a")
    submitted(here, "40", "c")
    assert said(capsys, "cancel runs/a 42 runs/c") == "cancelled: 42\n"
    assert calls(here / "bin", "scancel") == [["42"]]
    assert said(capsys, "cancel runs/c") == "nothing to cancel: 40 ended before\n"
    program(here / "bin", "scancel", "echo 'scancel: error: denied' >&2; exit 1")
    assert "scancel: error: denied" in said(capsys, "cancel 42", code=2)


@pytest.mark.parametrize("line", ["submit a.toml", "jobs", "logs 42", "cancel 42"])
def test_ranks_of_a_job_are_refused(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr("mpipar.cli.command.launched_size", lambda: 4)
    text = said(capsys, line, code=2)
    assert (
        text
        == f"mpipar: {line.split(maxsplit=1)[0]} is the work of one process: start it without mpirun or srun\n"
    )


# ---- as a process ------------------------------------------------------------------------------------------------

WITHOUT_MPI = """
import atexit, runpy, sys
atexit.register(lambda: print([name for name in sys.modules if name.startswith("mpi4py")]))
runpy.run_module("mpipar", run_name="__main__", alter_sys=True)
"""


@pytest.mark.launches
@pytest.mark.parametrize(
    "line", ["submit a.toml", "submit a.toml --dry-run", "jobs", "logs 42", "cancel 42", "doctor --help"]
)
def test_a_login_node_needs_no_mpi(here: Path, line: str) -> None:
    out = submitted(here, "42", "b")
    (out / "slurm-42.out").write_text("a line\n")
    done = launch(0, WITHOUT_MPI, *line.split(), cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
