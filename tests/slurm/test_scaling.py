"""The scaling study of jobs/: an array of jobs, and a job that waits for them and writes the table and the plot."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.desk import ROOT, Desk

pytestmark = pytest.mark.launches

SMALL = shlex.split("--steps 10 --batch 4 --context 16 --width 16 --heads 2 --layers 1 --data words.txt")


@pytest.mark.parametrize("weak", ["", "1"])
def test_study(desk: Desk, weak: str) -> None:
    options = "--array=1,2,4 --nodes=2 --ntasks-per-node=2 --time=5"
    study = desk.submit("scaling.sbatch", *SMALL, options=options, WEAK=weak, BATCH="4")
    out = f"runs/scaling-{study}"
    gather = desk.submit("scaling-gather.sbatch", out, options=f"--dependency=afterany:{study} --time=5")
    log = desk.succeed(gather, 240)
    table = (desk.folder / out / "scaling.md").read_text()
    assert table in log
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["1", "2", "4"]
    tokens = [desk.records(f"{out}/ranks-{ranks}")[0]["tokens"] for ranks in (1, 2, 4)]
    assert tokens == [4 * 16 * (ranks if weak else 1) for ranks in (1, 2, 4)]
    plot = (desk.folder / out / "scaling.svg").read_text()
    assert "<svg" in plot
    where = {
        ranks: re.findall(rf"{ranks} ranks on (\S+),", log_of(desk, study, ranks)) for ranks in (1, 2, 4)
    }
    assert where == {ranks: ["n[1-2]"] for ranks in (1, 2, 4)}


def log_of(desk: Desk, study: str, ranks: int) -> str:
    return (desk.folder / f"mpipar-scaling-{study}-{ranks}.log").read_text()


def gather(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "gather.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write_run(folder: Path, ranks: int, tokens_per_s: float) -> None:
    (folder / f"ranks-{ranks}").mkdir(parents=True)
    line = f'{{"step": 1, "tokens_per_s": {tokens_per_s}, "step_s": 0.5, "comm_s": 0.125}}\n'
    (folder / f"ranks-{ranks}" / "metrics.jsonl").write_text(line)


def test_table_by_hand(tmp_path: Path) -> None:
    write_run(tmp_path, 2, 1000)
    write_run(tmp_path, 10, 4000)
    done = gather(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "| 2 | 1,000 | 500.0 | 25% | 1.00 | 100% |\n| 10 | 4,000 | 500.0 | 25% | 4.00 | 80% |" in done.stdout
    )


def test_a_run_without_numbers_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, 1, 1000)
    (tmp_path / "ranks-4").mkdir()
    done = gather(tmp_path)
    assert (done.returncode, done.stderr) == (1, "without numbers: ranks-4: their logs say why\n")
    assert "| 1 |" in done.stdout


def test_no_study(tmp_path: Path) -> None:
    done = gather(tmp_path / "nothing")
    assert done.returncode == 2
    assert "no ranks-N/metrics.jsonl with a step in it" in done.stderr
