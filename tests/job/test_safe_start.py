"""How a job ends when a rank fails: at once, with one message and the right exit code, and never in a hang.

Each test starts a program on three ranks. A failure shows what it printed; LaunchTimeout means that it hung.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

HEAD = "import argparse, os, signal, sys, threading, time\nfrom mpipar.job import ending, launcher, world\n"
STARTED = HEAD + "from mpipar.errors import UsageError\nw = world()\n"
EARLY = (
    HEAD + "from mpipar.errors import UsageError\nrank = launcher.launched_rank()\n"
)  # MPI has not started
HASTE = "ending.PATIENCE = 0.3\n"  # in tests where the other ranks do not come
PARSER = "parser = argparse.ArgumentParser()\nparser.add_argument('--steps', type=int)\n"


def run(program: str, *args: str, n: int = 3) -> Finished:
    return launch(n, program, *args, timeout=30)


def said(done: Finished) -> list[str]:
    """The lines on stderr, without those of the launcher."""
    text = done.stderr.replace("\0", "")  # Open MPI's banners end with one
    own = re.sub(r"^ ?(-{40,}|={40,})\n(.*\n)*?\1\n", "", text, flags=re.MULTILINE)
    return [line for line in own.splitlines() if line.strip() and not line.startswith("[mpiexec@")]


# ---- exceptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [STARTED + "rank = w.rank\n", EARLY], ids=["started", "before MPI"])
def test_an_exception_on_one_rank_ends_the_job(head: str) -> None:
    done = run(head + "if rank == 2: raise ValueError('bad')\ntime.sleep(0.3)\nworld().barrier()\n")
    assert done.returncode == 1
    lines = said(done)
    assert lines[0] == "---- rank 2 of 3: ValueError, the job ends here ----", done.stderr
    assert (lines.count("Traceback (most recent call last):"), lines[-1]) == (1, "ValueError: bad"), (
        done.stderr
    )


@pytest.mark.parametrize("head", [STARTED, EARLY], ids=["started", "before MPI"])
def test_an_equal_exception_on_all_ranks_is_shown_once(head: str) -> None:
    done = run(head + "raise ValueError('bad')\n")
    assert done.returncode == 1
    assert said(done)[0].startswith("---- rank 0 of 3:"), done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr


def test_an_equal_exception_on_all_ranks_but_the_first_is_shown_once() -> None:
    done = run(STARTED + "if w.rank: raise ValueError('bad')\nw.barrier()\n")
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 1), done.stderr


def test_an_exception_in_a_thread_ends_the_job() -> None:
    body = (
        "def work(): raise ValueError('bad')\n"
        "if w.rank == 1: threading.Thread(target=work, name='loader').start()\n"
        "w.barrier()\n"
        "if w.rank == 1: time.sleep(20)\n"
        "w.barrier()\n"
    )
    done = run(STARTED + body)
    assert done.returncode == 1
    assert said(done)[0] == "---- rank 1 of 3, thread loader: ValueError, the job ends here ----", done.stderr
    assert done.seconds < 10


def test_what_was_printed_before_is_not_lost() -> None:
    done = run(
        STARTED + "if w.rank == 1:\n    print('x' * 100_000)\n    raise ValueError('bad')\nw.barrier()\n"
    )
    assert "x" * 100_000 in done.stdout


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_hook_of_the_user_shows_the_error(order: str) -> None:
    hook = "sys.excepthook = lambda kind, error, trace: print('mine:', error, file=sys.stderr, flush=True)\n"
    start = "from mpipar.job import world\nw = world()\n"
    head = "import sys\n" + (hook + start if order == "before" else start + hook)
    done = run(head + "if w.rank == 1: raise ValueError('bad')\nw.barrier()\n")
    assert (done.returncode, said(done)[-1]) == (1, "mine: bad"), done.stderr
    assert "Traceback" not in done.stderr


# ---- bad usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [STARTED, EARLY], ids=["started", "before MPI"])
def test_bad_usage_on_all_ranks_is_one_message(head: str) -> None:
    done = run(head + "raise UsageError('steps must be positive')\n")
    assert (done.returncode, said(done)) == (2, ["steps must be positive"]), done.stderr


def test_different_bad_usage_is_told_with_the_ranks() -> None:
    done = run(STARTED + "raise UsageError('no file' if w.rank == 1 else 'no disk')\n")
    assert (done.returncode, said(done)) == (2, ["rank 0, 2: no disk", "rank 1: no file"]), done.stderr


def test_bad_usage_on_one_rank_ends_the_job() -> None:
    done = run(STARTED + "if w.rank == 1: raise UsageError('no file')\nw.barrier()\n")
    assert (done.returncode, said(done)) == (2, ["rank 1 of 3: no file"]), done.stderr


def test_bad_usage_without_a_launcher_is_one_message() -> None:
    done = run(EARLY + "raise UsageError('steps must be positive')\n", n=0)
    assert (done.returncode, done.stderr) == (2, "steps must be positive\n")


# ---- sys.exit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(3)\n",
        "def leave():\n    with open(os.devnull):\n        sys.exit(3)\nleave()\n",
        "try:\n    sys.exit(3)\nfinally:\n    print('tidy')\n",
        "try:\n    sys.exit(3)\nexcept ValueError:\n    pass\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    sys.exit(3)\n",
        "def leave():\n    try:\n        sys.exit(3)\n    except SystemExit:\n        raise\nleave()\n",
    ],
    ids=["plain", "with", "finally", "other except", "in except", "raised again"],
)
def test_sys_exit_on_one_rank_ends_the_job(body: str) -> None:
    one = "".join(f"    {line}\n" for line in body.splitlines())
    done = run(f"{STARTED}{HASTE}if w.rank == 1:\n{one}w.barrier()\n")
    assert done.returncode == 3, done.stderr
    lines = said(done)
    assert len(lines) == 1, done.stderr
    assert re.fullmatch(r"rank 1 of 3: sys\.exit\(3\) at .*program\.py:\d+, the other ranks .*", lines[0])


def test_sys_exit_on_all_ranks_says_nothing() -> None:
    done = run(STARTED + "sys.exit(3)\n")
    assert (done.returncode, said(done)) == (3, [])


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    sys.exit(3)\nexcept SystemExit:\n    pass\n",
        "import contextlib\nwith contextlib.suppress(SystemExit):\n    sys.exit(3)\n",
        "threading.Thread(target=sys.exit, args=(3,)).start()\n",
        "def leave():\n    try:\n        sys.exit(3)\n    finally:\n        return\nleave()\n",
    ],
    ids=["except", "suppress", "thread", "return in finally"],
)
def test_a_caught_sys_exit_does_nothing(body: str) -> None:
    one = "".join(f"    {line}\n" for line in body.splitlines())
    done = run(f"{STARTED}if w.rank == 1:\n{one}w.barrier()\nprint('the end')\n")
    assert (done.returncode, said(done), done.stdout.count("the end")) == (0, [], 3)


def test_sys_exit_0_on_one_rank_lets_the_others_go_on() -> None:
    done = run(STARTED + "if w.rank == 1: sys.exit()\ntime.sleep(1.3)\nprint('the end')\n")
    assert (done.returncode, said(done), done.stdout.count("the end")) == (0, [], 2)


@pytest.mark.parametrize("way", ["module", "runpy"])
def test_sys_exit_under_a_runner(way: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(STARTED + HASTE + "if w.rank == 1: sys.exit(3)\nw.barrier()\n")
    if way == "module":
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        done = launch(3, "mine", python_args=["-m"], env={"PYTHONPATH": path}, timeout=30)
    else:
        done = run(f"import runpy\nrunpy.run_path({str(mine)!r}, run_name='__main__')\n")
    assert (done.returncode, len(said(done))) == (3, 1), done.stderr


@pytest.mark.parametrize("head", [STARTED, EARLY], ids=["started", "before MPI"])
def test_a_bad_flag_in_a_users_script_is_one_message(head: str) -> None:
    done = run(head + PARSER + "parser.parse_args()\n", "--stepz", "3")
    usage, error = said(done)
    assert (done.returncode, usage[:6]) == (2, "usage:")
    assert error.endswith("error: unrecognized arguments: --stepz 3")


def test_a_bad_flag_on_one_rank_ends_the_job() -> None:
    done = run(STARTED + PARSER + "if w.rank == 2: parser.parse_args(['--stepz'])\nw.barrier()\n")
    assert done.returncode == 2
    assert [line.partition(" ")[0] for line in said(done)] == ["usage:", "program.py:", "rank"], done.stderr
    assert "sys.exit(2) at" in done.stderr
    assert "program.py:7," in done.stderr, "the line of the user's call"


# ---- Ctrl-C -----------------------------------------------------------------------------------------------

# What a terminal does: SIGINT to mpirun, which is an ancestor of the ranks; they are in sessions of their own.
CTRL_C = """
def ancestors(pid):
    while pid > 1:
        yield pid
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
w.barrier()
if w.rank == 0 and os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(0.5)
    mpirun = next(pid for pid in ancestors(os.getppid()) if "mpirun" in open(f"/proc/{pid}/comm").read())
    os.kill(mpirun, signal.SIGINT)
    os._exit(0)
"""
HYDRA = Path(sys.executable).with_name("mpiexec.hydra").exists() or shutil.which("mpiexec.hydra")
forwards_ctrl_c = pytest.mark.skipif(
    not HYDRA, reason="Open MPI's mpirun does not forward Ctrl-C: it kills the ranks and exits with 1"
)


@forwards_ctrl_c
@pytest.mark.parametrize(
    "doing", ["pass", "time.sleep(0.001 * w.rank); w.barrier()"], ids=["working", "in MPI"]
)
def test_ctrl_c_ends_in_one_line(doing: str) -> None:
    done = run(f"{STARTED}{CTRL_C}while True: {doing}\n")
    assert (done.returncode, said(done)) == (130, ["interrupted"]), done.stderr


@forwards_ctrl_c
def test_ctrl_c_ends_a_job_that_is_stuck_in_mpi() -> None:
    done = run(f"{STARTED}{CTRL_C}if w.rank == 0: time.sleep(20)\nw.barrier()\n")
    assert (done.returncode, said(done)) == (130, ["interrupted"]), done.stderr


# ---- what is left alone, and what has no hook ---------------------------------------------------------------


def test_a_forked_process_may_fail_by_itself() -> None:
    body = (
        "import multiprocessing\n"
        "def work(): raise ValueError('bad')\n"
        "if w.rank == 1:\n"
        "    process = multiprocessing.get_context('fork').Process(target=work)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print('ended with', process.exitcode)\n"
        "w.barrier()\n"
    )
    done = run(STARTED + body)
    assert (done.returncode, done.stdout) == (0, "ended with 1\n"), done.stderr


def test_an_interactive_session_is_left_alone() -> None:
    told = "{sys.exit.__module__} {sys.excepthook is sys.__excepthook__}"
    body = f"print(f'{told}\\n', end='', flush=True)\nos._exit(0)\n"
    done = launch(2, HEAD + body, python_args=["-i"], timeout=30)
    assert done.stdout.splitlines() == ["sys True"] * 2, done.stdout + done.stderr


def test_one_rank_that_never_reaches_mpi_does_not_hang_in_its_start() -> None:
    body = "ending.START_LIMIT = 1\nif rank == 1: raise ValueError('bad')\n"
    done = run(EARLY + body)
    assert done.returncode != 0
    assert "rank 1 of 3: Traceback" in done.stderr
    assert "The other ranks did not come to start MPI within 1 s: the job ends." in done.stderr


def test_hooks_are_in_place_without_a_launcher_too() -> None:
    body = "print(sys.exit.__module__)\nraise KeyboardInterrupt\n"
    done = launch(0, HEAD + body, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "sys\n", "interrupted\n")
    assert sys.excepthook.__module__ != "mpipar.job.safety", "pytest is left alone"
