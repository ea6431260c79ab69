"""Tests of the tests: with a mistake put into mpipar, the law that it breaks fails; without one it holds.

A failure here shows a run of tests on two ranks that passed although it should not have, or that ended by a crash or a
deadlock instead of by failed tests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from mutants.mutants import MUTANTS, Mutant

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

TESTS = Path(__file__).parents[1]


def run(mutant: str, laws: Iterable[Mutant]) -> Finished:
    """The tests of these laws on two ranks, with that mistake; not once more on the double of a device."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "MPIPAR_MUTANT": mutant, "OMP_NUM_THREADS": "1"}
    files = {str(TESTS / law.file) for law in laws}
    picked = " or ".join(f"({Path(law.file).name} and not double and {law.word or 'test'})" for law in laws)
    options = ("-p", "mutants.mutants", "-q", "--tb=no", "--color=no", "-k", picked)
    return launch(
        2, *sorted(files), *options, python_args=("-m", "pytest"), env=env, cwd=TESTS.parent, timeout=120
    )


def counts(finished: Finished) -> dict[str, int]:
    """The closing line: how many tests failed, passed …"""
    (line,) = re.findall(r"^=*\s*(\d+ \w+.*) in [\d.]+s", finished.stdout, re.MULTILINE)
    return {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", line)}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_its_law(name: str) -> None:
    finished = run(name, [MUTANTS[name]])
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert counts(finished)["failed"] > 0
    assert not {"error", "errors"} & counts(finished).keys()
    assert "The run ended here" not in finished.stdout


def test_without_a_mutant_the_laws_hold() -> None:
    finished = run("", list(MUTANTS.values()))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert counts(finished).keys() == {"passed", "deselected"}
    assert counts(finished)["passed"] > 50
