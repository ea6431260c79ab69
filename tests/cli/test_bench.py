"""``mpipar bench step``: what it refuses, and what it finds on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpipar.cli import main
from mpipar.testing import launch

MODULE = "import runpy\nrunpy.run_module('mpipar', run_name='__main__', alter_sys=True)\n"
MODEL = "--batch 4 --context 16 --width 24 --heads 3 --layers 1 --timed 2 --untimed 1 --vocabulary 300"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench", "bench what? write  mpirun -n RANKS mpipar bench step"),
        ("bench stop", "bench 'stop' is unknown: did you mean step?"),
        ("bench step now", "bench 'step now' is unknown"),
        ("bench step --timed 0", "--timed 0: must be a whole number, at least 1"),
        ("bench step --widht 3", "unknown flag --widht: did you mean --width?"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(
    line: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before MPI is asked for anything."""
    monkeypatch.setattr("mpipar.cli.launched_size", lambda: 1)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"mpipar: {message}")


def bench(ranks: int, flags: str, here: Path) -> dict[str, Any]:
    done = launch(
        ranks, MODULE, "bench", "step", *MODEL.split(), *flags.split(), "--json", "b.json",
        cwd=here, timeout=120, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((here / "b.json").read_text())
    assert done.stdout.startswith(f"step         {1e3 * found['step_s']:.1f} ms, median of 2")
    return found


@pytest.mark.launches
def test_two_ranks_of_tp(tmp_path: Path) -> None:
    found = bench(2, "--mesh tp=2", tmp_path)
    assert (found["mesh"], found["tokens"]) == ({"tp": 2}, 64)
    assert found["flops"] == 6 * 64 * (12 * 24 * 24 + 300 * 24) + 6 * 64 * 16 * 24
    assert len(found["seconds"]) == len(found["peak_gflops"]) == len(found["page_faults"]) == 2
    assert found["share_of_peak"] == pytest.approx(found["gflops"] / sum(found["peak_gflops"]))
    times = {its["name"]: its for its in found["operations"]}
    assert times["self_attention"]["calls"] == 1
    assert min(times["contract"][part] for part in ("forward_s", "backward_s")) > 0
    assert "AdamW.step" in times
    assert {its["axis"] for its in found["communication"]} >= {"tp", "dp,tp"}
    accounted = sum(its["forward_s"] + its["backward_s"] for its in found["operations"])
    accounted += sum(its["seconds"] for its in found["communication"])
    assert accounted + found["other_s"] == pytest.approx(found["watched_s"])
    assert found["other_s"] > 0


@pytest.mark.launches
def test_one_rank_with_settings_of_a_file_and_data(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a few words " * 200)
    (tmp_path / "run.toml").write_text('style = "llama"\nlayers = 2\ndata = ["words.txt"]\n')
    found = bench(0, "--config run.toml --vocabulary 256", tmp_path)
    assert found["communication"] == []
    assert (
        next(its["calls"] for its in found["operations"] if its["name"] == "swiglu") == 1
    )  # flags win: --layers 1


@pytest.mark.launches
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data words.txt", "--vocabulary is of tokens drawn at random: leave it out with --data"),
        ("--mesh tp=4", "--mesh tp=4 needs 4 ranks, the job has 2"),
        ("--json nowhere/b.json", "--json nowhere/b.json cannot be written"),
        ("--config nowhere.toml", "--config nowhere.toml cannot be read"),
    ],
)
def test_two_ranks_say_it_once(flags: str, message: str, tmp_path: Path) -> None:
    done = launch(2, MODULE, "bench", "step", *MODEL.split(), *flags.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(message) == 1, done.stderr
