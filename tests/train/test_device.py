"""train.py and its device: which one it takes, what it says of it, and what is wrong in one message with exit code 2.

The cards are those of the stand-in for CuPy (tests/standin), whose variables say what machine it is. A failure shows
what train.py said.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from runs import attempt, write_text

from mpipar.testing import Finished

pytestmark = pytest.mark.launches

STANDIN = Path(__file__).parents[1] / "standin"
SMALL = "--dtype float64 --dropout 0.1 --steps 4 --batch 6 --context 16 --width 24 --heads 4 --layers 1 --sample 0"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "words.txt")


def run(ranks: int, flags: str, text: Path, **machine: object) -> Finished:
    """On a machine with cards as the variables say; without any: this one without the stand-in."""
    path = os.environ.get("PYTHONPATH", "")
    env = {"PYTHONPATH": f"{STANDIN}{os.pathsep}{path}"} if machine else {}
    env |= {name: str(value) for name, value in machine.items()}
    return attempt(
        ranks, [*SMALL.split(), *flags.split(), "--data", str(text), "--out", "out"], text.parent, env
    )


def losses(text: Path) -> list[float]:
    lines = (text.parent / "out" / "metrics.jsonl").read_text().splitlines()
    (text.parent / "out").rename(text.parent / f"out-{len(list(text.parent.iterdir()))}")
    return [json.loads(line)["loss"] for line in lines]


WRONG = {
    "no card": (1, "", {"STANDIN_CARDS": 0}, "no card is visible to this process"),
    "a broken card": (1, "", {"STANDIN_CARDS": -1}, "CUDA finds no card that it can use (cudaErrorInit"),
    "no driver": (2, "", {"STANDIN_DRIVER": 0}, "there is no NVIDIA driver on this machine"),
    "an old driver": (1, "", {"STANDIN_DRIVER": 11080}, "the NVIDIA driver speaks CUDA 11.8, and CuPy needs 12.0"),
    "CuPy for another driver": (
        2, "", {"STANDIN_DRIVER": 12040, "STANDIN_RUNTIME": 13000},
        "CuPy is built for CUDA 13, and the NVIDIA driver speaks 12.4: write\n"
        "  pip uninstall -y cupy-cuda13x && pip install 'mpipar[cuda12]'",
    ),
    "more ranks than cards": (
        3, "", {"STANDIN_CARDS": 2},
        "3 ranks are more than 2 cards with 1 rank each: start 2 ranks, or write --ranks-per-gpu 2",
    ),
    "more ranks than the cards take": (
        3, "--ranks-per-gpu 2", {"STANDIN_CARDS": 1}, "3 ranks are more than 1 card with 2 ranks each: start 2 ranks",
    ),
    "a full card": (2, "", {"CUPY_GPU_MEMORY_LIMIT": 100_000}, "the GPU (stand-in) is full"),
    "a word for awareness": (2, "", {"MPIPAR_GPU_AWARE_MPI": "yes"}, "MPIPAR_GPU_AWARE_MPI='yes': write 1"),
}  # fmt: skip


@pytest.mark.parametrize(("ranks", "flags", "machine", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_once(
    ranks: int, flags: str, machine: dict[str, object], message: str, text: Path
) -> None:
    finished = run(ranks, f"--device gpu {flags}", text, **machine)
    told = finished.stdout + finished.stderr
    assert finished.returncode == 2, told
    assert told.count(message) == 1, told
    assert "Traceback" not in told
    assert "full" in message or not (text.parent / "out").exists()


def test_auto_falls_back_and_says_why(text: Path) -> None:
    for machine, words in (
        ({"STANDIN_DRIVER": 0}, "on the CPU (there is no NVIDIA driver on this machine"),
        ({"STANDIN_CARDS": 1}, "on the CPU (2 ranks are more than 1 card with 1 rank each"),
        ({"STANDIN_CARDS": 2}, "on GPU (stand-in, collectives through host buffers)"),
    ):
        finished = run(2, "", text, **machine)
        assert finished.returncode == 0, finished.stderr
        assert words in finished.stdout
        losses(text)


def test_all_ways_to_carry_give_the_same_numbers(text: Path) -> None:
    """Through host buffers, and by a GPU-aware MPI, which takes the pointers: bit by bit; and the CPU's to 1e-9."""
    found = []
    for flags, machine in (
        ("--device cpu", {"STANDIN_CARDS": 0}),
        ("--device gpu", {"STANDIN_CARDS": 4}),
        ("--device gpu", {"STANDIN_AWARE": 1, "MPIPAR_GPU_AWARE_MPI": 1}),
    ):
        finished = run(4, f"--mesh dp=2,tp=2 {flags}", text, **machine)
        assert finished.returncode == 0, finished.stderr
        assert ("GPU-aware" in finished.stdout) == ("STANDIN_AWARE" in machine)
        found.append(losses(text))
    here, staged, aware = found
    assert staged == aware
    assert staged == pytest.approx(here, rel=1e-9)


def test_memory_of_a_card_ends_an_mpi_that_is_not_aware(text: Path) -> None:
    """What staging is for: here mpi4py refuses the pointer, elsewhere MPI dies of it."""
    finished = run(2, "--device gpu", text, MPIPAR_GPU_AWARE_MPI=1)
    assert finished.returncode == 1
    assert "TypeError" in finished.stderr
