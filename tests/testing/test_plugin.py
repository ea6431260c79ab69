"""pytest under mpirun: each test here runs a small suite on three ranks and reads what comes out.

A failure shows the whole output of that suite. Where a suite "did not end", the machine may have been too busy
for the short deadlines that these tests set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

INI = """\
[pytest]
addopts = --with-mpi -p mpipar.testing.plugin -p no:cacheprovider
xfail_strict = true
filterwarnings = error
"""
HEAD = """\
import os, re, signal, time
import pytest
from mpipar.job import world
w = world()
"""
Suite = Callable[..., Finished]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """``suite(text, flags…)``: the end of a pytest run on that text."""

    def run(
        text: str, *flags: str, n: int = 3, head: str = HEAD, deadline: float = 60, grace: float = 1
    ) -> Finished:
        (tmp_path / "pytest.ini").write_text(INI)
        (tmp_path / "test_it.py").write_text(head + text)
        env = {"MPIPAR_TEST_TIMEOUT": str(deadline), "MPIPAR_TEST_GRACE": str(grace), "NO_COLOR": "1"}
        options = ("-q", "--basetemp", str(tmp_path / "temp"), *flags)
        python = ("-m", "pytest")
        return launch(n, tmp_path / "test_it.py", *options, python_args=python, cwd=tmp_path, env=env)

    return run


def closing_lines(done: Finished) -> list[str]:
    """The lines with which a session ends, one a rank that spoke, without the seconds."""
    found = re.findall(r"^=* ?(.*) in [\d.]+s.*$", done.stdout, re.MULTILINE)
    return [str(line) for line in found]


OUTCOMES = """
@pytest.fixture
def broken():
    if w.rank == 1:
        raise RuntimeError("the fixture broke")

@pytest.mark.mpi(min_size=2)
def test_passes():
    assert w.allgather_object(w.rank) == list(range(w.size))

@pytest.mark.mpi(min_size=8)
def test_needs_eight():
    pass

def test_fails_on_two():
    print("hello from rank", w.rank)
    assert w.rank != 2, "unhappy"

def test_fails_everywhere():
    assert 1 == 2

def test_setup_fails_on_one(broken):
    w.barrier()

def test_goes_on():
    w.barrier()

@pytest.mark.xfail
def test_xfails():
    assert 0

@pytest.mark.xfail
def test_xfails_on_one():
    assert w.rank != 1

@pytest.mark.xfail(strict=False)
def test_xpasses():
    pass

def test_skips_on_one():
    if w.rank == 1:
        pytest.skip("not here")

def test_skips():
    pytest.skip("nowhere")

@pytest.mark.launches
def test_launches():
    assert w.size == 1

@pytest.mark.alone
def test_alone():
    assert w.size == 1

@pytest.mark.parametrize("i", range(100))
def test_many(i):
    pass
"""


def test_one_outcome_and_one_report_for_all_ranks(suite: Suite) -> None:
    done = suite(OUTCOMES, "-rsfE")
    out = done.stdout
    counts = "3 failed, 102 passed, 3 skipped, 1 deselected, 2 xfailed, 1 xpassed, 1 error"
    assert (done.returncode, closing_lines(done)) == (1, [counts]), out + done.stderr
    assert "FAILED test_it.py::test_fails_on_two - rank 2: AssertionError: unhappy" in out
    assert "FAILED test_it.py::test_fails_everywhere - assert 1 == 2" in out
    assert "FAILED test_it.py::test_skips_on_one - ranks disagree: passed on ranks 0, 2" in out
    assert "ERROR test_it.py::test_setup_fails_on_one - rank 1: RuntimeError" in out
    assert out.count("assert 1 == 2\n") == 3, "source, error and summary line, once for three ranks"
    assert re.findall(r"^hello from rank .*", out, re.MULTILINE) == ["hello from rank 2"]
    assert "starts mpirun itself" in out


def test_one_rank_is_plain_pytest(suite: Suite) -> None:
    done = suite(OUTCOMES, n=1)
    counts = "2 failed, 106 passed, 3 skipped, 1 xfailed, 1 xpassed"
    assert (done.returncode, closing_lines(done)) == (1, [counts]), done.stdout + done.stderr


def test_the_plugin_does_not_start_mpi_without_mpirun(suite: Suite) -> None:
    done = suite("import sys\ndef test_a(): assert 'mpi4py.MPI' not in sys.modules\n", head="", n=0)
    assert closing_lines(done) == ["1 passed"], done.stdout + done.stderr


FAILS_EARLIER = 'def test_earlier():\n    assert w.rank != 0, "an earlier failure"\n'


def test_a_failing_rank_with_others_that_wait_for_it(suite: Suite) -> None:
    body = 'def test_dead():\n    assert w.rank != 2, "unhappy"\n    w.barrier()\ndef test_never(): pass\n'
    done = suite(FAILS_EARLIER + body)
    out = done.stdout
    assert (done.returncode, closing_lines(done)) == (1, ["2 failed, 1 not run"]), out + done.stderr
    assert "AssertionError: an earlier failure" in out, "earlier failures are told all the same"
    assert "test_it.py::test_dead - rank 2 failed, and the others did not finish within 1 s" in out
    assert re.search(r"-- ranks 0, 1: stuck in call at\n.*in test_dead\n    w\.barrier\(\)", out), out
    assert re.search(
        r"-- rank 2: failed in call and waits for the others\n(.*\n)*E +AssertionError: unhappy", out
    )
    assert done.seconds < 20


def test_a_deadlock(suite: Suite) -> None:
    body = "def test_dead():\n    if w.rank == 1:\n        return\n    w.barrier()\n"
    done = suite(body, deadline=3)
    out = done.stdout
    assert (done.returncode, closing_lines(done)) == (1, ["1 failed"]), out + done.stderr
    assert "FAILED test_it.py::test_dead - not finished within 3 s" in out
    assert "-- ranks 0, 2: stuck in call at\n" in out
    assert "-- rank 1: finished in call and waits for the others\n" in out


def test_a_rank_that_holds_the_gil_is_named(suite: Suite) -> None:
    body = (
        "def test_dead():\n    if w.rank == 2:\n        re.match('(a+)+$', 'a' * 60 + 'b')\n    w.barrier()\n"
    )
    done = suite(body, deadline=3)
    out = done.stdout
    assert (done.returncode, closing_lines(done)) == (1, ["1 failed"]), out + done.stderr
    assert re.search(
        r"-- rank 2: no answer in call: it holds the GIL.*\n.*in match\n.*in test_dead\n", out
    ), out


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "os.kill(os.getpid(), signal.SIGSEGV)"]
)
def test_a_rank_that_dies_is_named(suite: Suite, end: str) -> None:
    body = f"def test_dead():\n    if w.rank == 1:\n        {end}\n    w.barrier()\n"
    done = suite(FAILS_EARLIER + body)
    out = done.stdout
    assert done.returncode != 0
    assert closing_lines(done) == ["2 failed"], out + done.stderr
    assert re.search(r"FAILED test_it.py::test_dead - rank 1 \(process \d+ on .*\) died", out), out
    assert "-- rank 1: died in call: killed, crashed or left by os._exit\n" in out
    assert "an earlier failure" in out


def test_a_rank_that_leaves_the_session_is_named(suite: Suite) -> None:
    done = suite("def test_dead():\n    if w.rank == 1:\n        pytest.exit('enough')\n    w.barrier()\n")
    assert (done.returncode, closing_lines(done)) == (1, ["1 failed"]), done.stdout + done.stderr
    assert "-- rank 1: failed in call and waits for the others\nExit: enough\n" in done.stdout


@pytest.mark.parametrize(
    ("numbers", "difference"),
    [
        ("[2, 1]", "rank 1 has test_it.py::test_a[2] where rank 0 has test_it.py::test_a[1]"),
        ("[1, 2, 3]", "rank 1 has test_it.py::test_a[3]"),
        ("[1]", "rank 1 lacks test_it.py::test_a[2]"),
    ],
    ids=["order", "more", "less"],
)
def test_ranks_that_collect_different_tests(suite: Suite, numbers: str, difference: str) -> None:
    body = (
        f"numbers = {numbers} if w.rank == 1 else [1, 2]\n"
        "@pytest.mark.parametrize('i', numbers)\ndef test_a(i): w.barrier()\n"
    )
    done = suite(body)
    assert (done.returncode, closing_lines(done)) == (3, ["no tests ran"]), done.stdout + done.stderr
    assert f"Compared with rank 0,\n  {difference}\n" in done.stdout


def test_a_file_that_one_rank_cannot_import(suite: Suite) -> None:
    done = suite("if w.rank == 1:\n    raise ValueError('only here')\ndef test_a(): pass\n")
    assert (done.returncode, closing_lines(done)) == (3, ["no tests ran"]), done.stdout + done.stderr
    assert "rank 1 could not collect test_it.py\n" in done.stdout
    assert "ValueError: only here" in done.stdout


def test_a_hang_outside_of_tests_is_named(suite: Suite) -> None:
    done = suite("if w.rank == 1:\n    w.barrier()\ndef test_a(): pass\n", deadline=3)
    assert (done.returncode, closing_lines(done)) == (1, ["1 failed"]), done.stdout + done.stderr
    assert "the collection of the tests - not finished within 3 s" in done.stdout
    assert re.search(r"-- rank 1: stuck at\n.*test_it.py.*\n    w\.barrier\(\)", done.stdout), done.stdout


def test_a_usage_error_is_told_once(suite: Suite) -> None:
    done = suite("", "nowhere.py")
    assert (done.returncode, done.stderr.count("not found: nowhere.py")) == (4, 1), done.stderr
