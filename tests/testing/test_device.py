"""MPIPAR_TEST_DEVICE: where the meshes of a suite live, and which of its tests are collected.

Small suites on one and on two ranks, with the stand-in for CuPy. A failure shows the whole output of the suite.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

STANDIN = Path(__file__).parents[1] / "standin"
SUITE = """
import pytest
from mpipar import Mesh
from mpipar.job import world

HERE = Mesh(dp=world().size).xp.name  # asked for while the file is collected

def test_device():
    assert HERE == Mesh(dp=world().size).xp.name == "{name}"
    assert Mesh(dp=world().size, device="cpu").xp.name == "cpu"

@pytest.mark.gpu
def test_of_a_card():
    assert HERE == "gpu"
"""


def run(ranks: int, name: str, tmp_path: Path, **machine: str) -> Finished:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --with-mpi --strict-markers -p mpipar.testing.plugin -p no:cacheprovider\n"
    )
    (tmp_path / "test_it.py").write_text(SUITE.replace("{name}", name))
    path = f"{STANDIN}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    options = ("-q", "--basetemp", str(tmp_path / "temp"))
    env = {"PYTHONPATH": path, "NO_COLOR": "1", **machine}
    return launch(
        ranks, tmp_path / "test_it.py", *options, python_args=("-m", "pytest"), cwd=tmp_path, env=env
    )


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("device", ["", "cpu"])
def test_on_the_cpu_tests_of_a_card_are_deselected(ranks: int, device: str, tmp_path: Path) -> None:
    done = run(ranks, "cpu", tmp_path, MPIPAR_TEST_DEVICE=device)
    assert "1 passed, 1 deselected" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("ranks", [0, 2])
def test_on_a_card_all_run_and_the_ranks_share_it(ranks: int, tmp_path: Path) -> None:
    done = run(ranks, "gpu", tmp_path, MPIPAR_TEST_DEVICE="gpu", STANDIN_CARDS="1")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"MPIPAR_TEST_DEVICE": "gpu", "STANDIN_CARDS": "0"}, "device 'gpu': no card is visible"),
        ({"MPIPAR_TEST_DEVICE": "tpu"}, "device 'tpu' is not known"),
    ],
)
def test_no_such_device(machine: dict[str, str], message: str, tmp_path: Path) -> None:
    done = run(0, "gpu", tmp_path, **machine)
    assert done.returncode == 4, done.stdout + done.stderr
    assert message in done.stdout + done.stderr
