"""A run that stops and goes on is the run that did not stop: bit for bit on its mesh, to 1e-9 on another.

In float64, with dropout and micro-batches, from the middle of the warm-up. A failure shows two curves, two weights, or
what was said.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from runs import TRAIN, Run, attempt, write_text

from mpipar import Mesh, checkpoint
from mpipar.job import world
from mpipar.job.lock import Lock
from mpipar.job.preempt import SIGNALS
from mpipar.nn import LayerNorm
from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

MODEL = "--batch 5 --context 16 --width 24 --heads 3 --layers 1 --data words.txt --dtype float64 --sample 0"
FLAGS = f"{MODEL} --steps 12 --warmup 8 --dropout 0.1 --micro-batch 2 --val-every 4 --val-batches 1 --save-every 5"
NUMBERS = ("loss", "grad_norm", "lr", "val_loss")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are started, with their text."""
    path = tmp_path_factory.mktemp("runs")
    write_text(path / "words.txt", 4000)
    (path / "other.txt").write_text((path / "words.txt").read_text().upper())
    return path


def run(here: Path, ranks: int, line: str, out: str) -> Run:
    finished = attempt(ranks, [*line.split(), "--out", out], here)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Run(finished, here / out)


def curve(run: Run) -> list[list[float]]:
    return [[record[name] for name in NUMBERS if name in record] for record in run.records]


Whole = Callable[[int, str], Run]


@pytest.fixture(scope="module")
def whole(here: Path) -> Whole:
    """A run of 12 steps that nothing interrupts, by ranks and mesh; made once."""
    return cache(lambda ranks, mesh: run(here, ranks, f"{FLAGS} --mesh {mesh}", f"whole-{mesh}"))


def stopped(here: Path, ranks: int, line: str, out: str, after: int, number: str = "SIGUSR1") -> Finished:
    """A run that a signal to the last rank stops after a step."""
    return signalled(here, ranks, f"{line} --out {out}", f"step == {after - 1}", number)


def signalled(here: Path, ranks: int, line: str, when: str, number: str) -> Finished:
    program = f"""
import os, runpy, signal
from mpipar.data import Batches
from mpipar.job import world
training = Batches.training
def watched(self, step):
    if {when} and world().rank == world().size - 1:
        os.kill(os.getpid(), signal.{number})
    return training(self, step)
Batches.training = watched
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
"""
    return launch(ranks, program, *line.split(), cwd=here, env={"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(
    ("mesh", "flags", "number"),
    [("dp=2", "", "SIGUSR1"), ("tp=2", "--save-async", "SIGTERM"), ("dp=1", "--save-every 0", "SIGUSR1")],
)
def test_on_the_same_mesh_it_goes_on_bit_for_bit(
    whole: Whole, here: Path, mesh: str, flags: str, number: str
) -> None:
    ranks, out = int(mesh[-1]), f"again-{mesh}"
    line = f"{FLAGS} --mesh {mesh} {flags} --resume auto"
    first = stopped(here, ranks, line, out, 3, number)
    assert first.returncode == 85, first.stderr
    assert f"stopped after step 3 by a signal: go on with --resume auto --out {out}\n" in first.stdout
    assert len(Run(first, here / out).records) == 3
    second = run(here, ranks, line, out)
    assert f"going on from {out}/checkpoints/step-00000003\n" in second.finished.stdout
    assert [record["step"] for record in second.records] == list(range(1, 13))
    assert curve(second) == curve(whole(ranks, mesh))
    theirs = checkpoint.read(here / f"whole-{mesh}" / "checkpoints")
    mine = checkpoint.read(here / out / "checkpoints")
    assert {name: x.tobytes() for name, x in mine.items()} == {
        name: x.tobytes() for name, x in theirs.items()
    }


@pytest.mark.parametrize(("ranks", "mesh"), [(0, "dp=1"), (2, "tp=2"), (3, "dp=3"), (4, "dp=2,tp=2")])
def test_on_another_mesh_it_goes_on_to_1e_9(whole: Whole, here: Path, ranks: int, mesh: str) -> None:
    """In another directory, from a checkpoint by its path."""
    origin, source = whole(2, "dp=2"), "whole-dp=2/checkpoints/step-00000005"
    second = run(here, ranks, f"{FLAGS} --mesh {mesh} --resume {source}", f"moved-{mesh}")
    assert [record["step"] for record in second.records] == list(range(6, 13))
    for mine, theirs in zip(curve(second), curve(origin)[5:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=0)


def test_a_finished_run_says_so_and_nothing_changes(here: Path) -> None:
    line = f"{MODEL} --steps 3 --resume auto"  # no --save-every: auto saves the last step all the same
    run(here, 2, line, "finished")
    before = {path: path.read_bytes() for path in (here / "finished").rglob("*") if path.is_file()}
    again = run(here, 2, line, "finished")
    assert "nothing to do: 3 of 3 steps are done\n" in again.finished.stdout
    after = {path: path.read_bytes() for path in (here / "finished").rglob("*") if path.is_file()}
    lock = here / "finished" / ".lock"
    assert {path: data for path, data in after.items() if path != lock} == {
        path: data for path, data in before.items() if path != lock
    }
    more = run(here, 2, line.replace("--steps 3", "--steps 5 --lr 0.001"), "finished")
    assert "step-00000003, now with --steps 5, --lr 0.001\n" in more.finished.stdout
    assert [record["step"] for record in more.records] == [1, 2, 3, 4, 5]


def test_a_run_killed_before_its_first_checkpoint_starts_again(here: Path) -> None:
    line = f"{MODEL} --steps 5 --resume auto"
    killed = stopped(here, 2, line, "killed", 3, "SIGKILL")
    assert killed.returncode not in (0, 85)
    with (here / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in run(here, 2, line, "killed").records] == [1, 2, 3, 4, 5]


def test_a_damaged_checkpoint_is_passed_over_or_with_strict_refused(here: Path) -> None:
    line = f"{MODEL} --steps 6 --save-every 2 --resume auto"
    run(here, 0, line.replace("--steps 6", "--steps 4"), "damaged")
    shard = here / "damaged" / "checkpoints" / "step-00000004" / "rank-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    refused = attempt(2, [*line.split(), "--out", "damaged", "--strict"], here)
    assert (refused.returncode, refused.stderr.count("rank-00000.safetensors: ")) == (2, 1)
    again = run(here, 0, line, "damaged")
    assert "passed over: damaged/checkpoints/step-00000004/rank-00000.safetensors: " in again.finished.stdout
    assert [record["step"] for record in again.records] == [1, 2, 3, 4, 5, 6]


def test_weights_begin_another_run(whole: Whole, here: Path) -> None:
    """In another dtype, on another mesh, with another optimizer; the step, the moments and the seed are not taken."""
    whole(2, "dp=2")
    flags = "--dtype float32 --mesh tp=2 --optimizer sgd --seed 9 --steps 1 --val-every 1 --val-batches 1"
    begun = run(here, 2, f"{MODEL} {flags} --init whole-dp=2 --lr 1e-30 --weight-decay 0", "begun")
    assert "begins with the weights of whole-dp=2/checkpoints/step-00000012\n" in begun.finished.stdout
    (record,) = begun.records
    assert record["step"] == 1
    assert record["val_loss"] == pytest.approx(whole(2, "dp=2").records[-1]["val_loss"], rel=1e-5)


def test_a_signal_during_the_imports_is_honoured_after_the_first_step(here: Path) -> None:
    """The very first import after the handlers sends it."""
    (here / "shlex.py").write_text(
        "import os, signal, sys\nos.kill(os.getpid(), signal.SIGUSR1)\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.path.remove(os.getcwd())\ndel sys.modules['shlex']\nfrom shlex import *\nimport shlex\n"
        "sys.modules['shlex'] = shlex\n"
    )
    program = (
        "import os, runpy, sys\nsys.path.insert(0, os.getcwd())\n"
        f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
    )
    line = f"{MODEL} --steps 5 --resume auto --out early"
    done = launch(2, program, *line.split(), cwd=here, env={"OMP_NUM_THREADS": "1"})
    (here / "shlex.py").unlink()
    assert done.returncode == 85, done.stderr
    assert len(Run(done, here / "early").records) == 1
    assert [path.name for path in (here / "early" / "checkpoints").glob("step-*")] == ["step-00000001"]


# ---- saves that fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["", "--save-async"])
def test_a_save_that_fails_stops_the_run_or_is_told(here: Path, background: str) -> None:
    line = f"{MODEL} --steps 4 --save-every 1 --keep 1 {background}"
    fault = {"MPIPAR_TESTING": "1", "MPIPAR_FAULT": "eio@save.before_fsync:rank=1"}
    for choice, code in (("stop", 2), ("continue", 0)):
        out = f"{choice}{background}"
        done = attempt(2, [*line.split(), "--save-error", choice, "--out", out], here, fault)
        assert done.returncode == code, done.stderr
        text = done.stderr if choice == "stop" else done.stdout
        assert text.count("cannot be written: Input/output error") == (1 if choice == "stop" else 4)
        assert len(Run(done, here / out).records) == 4 or choice == "stop"
        assert "Traceback" not in done.stderr


# ---- refused ------------------------------------------------------------------------------------------------

SOURCE = "whole-dp=2/checkpoints/step-00000012"
REFUSED = {
    "auto without out": ("--resume auto", "--resume auto needs --out DIRECTORY"),
    "nothing there": ("--resume nowhere", "--resume nowhere: no checkpoint is there"),
    "a file": ("--resume words.txt", "words.txt is not a directory, so it holds no checkpoint"),
    "empty": ("--resume=", "--resume is empty: write auto, none or the path of a checkpoint"),
    "resume and init": ("--resume a --init b", "--init takes weights alone, --resume PATH takes everything"),
    "init of nothing": ("--init nowhere", "--init nowhere: no checkpoint is there"),
    "init of a file": ("--init words.txt", "words.txt is not a directory"),
    "init of another shape": (
        f"--init {SOURCE} --width 48",
        f"{SOURCE} was trained with --width 24, this run has --width 48: write the former",
    ),
    "init of another model": ("--init alien", "lacks 'model/blocks.0."),
    "save-every below 0": ("--save-every -1", "--save-every -1: must be a whole number, at least 0"),
    "keep nothing": ("--keep 0", "--keep 0: must be a whole number, at least 1"),
    "another width and seed": (
        f"--resume {SOURCE} --width 48 --seed 1",
        f"{SOURCE} was trained with --width 24, --seed 0, this run has --width 48, --seed 1: write the former",
    ),
    "another optimizer": (
        f"--resume {SOURCE} --optimizer sgd",
        "--optimizer adamw, this run has --optimizer sgd",
    ),
    "other data": (f"--resume {SOURCE} --data other.txt", f"--data: {SOURCE} was trained on other bytes"),
    "a run without auto": ("--resume auto --out bare", "bare holds the metrics.jsonl of a run that has no"),
    "out of a run": ("--out whole-dp=2", "--out whole-dp=2 holds the metrics.jsonl of another run"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_refused_is_said_once(whole: Whole, here: Path, case: str) -> None:
    whole(2, "dp=2")
    (here / "bare").mkdir(exist_ok=True)
    (here / "bare" / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    if not (here / "alien").exists():
        alone = Mesh(ranks=[world().rank])
        checkpoint.save(here / "alien", 1, LayerNorm("norm", 24, alone), comm=world())
    flags, message = REFUSED[case]
    out = (
        "" if "--out" in flags or case == "auto without out" else f"--out refused-{list(REFUSED).index(case)}"
    )
    data = MODEL.replace("--data words.txt", "") if "--data" in flags else MODEL
    finished = attempt(2, f"{data} {flags} {out}".split(), here)
    assert finished.returncode == 2, finished.stdout
    assert finished.stderr.count(message) == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    assert (here / "bare" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert case == "init of another model" or not (here / f"refused-{list(REFUSED).index(case)}").exists()


def test_a_live_run_is_refused_with_its_owner(here: Path) -> None:
    (here / "live").mkdir()
    with Lock(here / "live"):
        for flags in ("--resume auto", ""):
            done = attempt(2, [*MODEL.split(), *flags.split(), "--out", "live"], here)
            assert done.returncode == 2
            assert done.stderr.count("live is in use by host ") == 1
    assert [path.name for path in (here / "live").iterdir()] == [".lock"]
    assert len(run(here, 2, f"{MODEL} --steps 2", "live").records) == 2


def test_signals_are_those_of_the_library() -> None:
    """train.py installs handlers before it can import the list."""
    text = TRAIN.read_text()
    assert SIGNALS == (signal.SIGUSR1, signal.SIGTERM)
    assert "for number in (signal.SIGUSR1, signal.SIGTERM):" in text
    assert text.index("signal.signal(") < text.index("import sys")
