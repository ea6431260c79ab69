"""A mesh of one where a person works line by line: a script on stdin, `python -c`, `python -i`, a notebook's kernel.

A session that goes on after an error in plain Python must go on after ours. A failure shows what was printed, or that
the kernel died or no longer answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from mpipar.job.launcher import clean_environment

pytestmark = pytest.mark.launches

PROGRAM = """\
import mpipar as mp
mesh = mp.Mesh(dp=1)
x = mp.tensor([1.0, 2.0], mesh, requires_grad=True)
x.square().sum().backward()
print(mesh, x.grad.numpy())
"""
PRINTED = "Mesh(one rank; rank 0) [2. 4.]\n"
BAD_USAGE = "mp.Mesh(dp=2)\n"
WAIT = 60  # seconds for a kernel to answer


def environment() -> dict[str, str]:
    """Ours, as a shell outside pytest and any launcher has it."""
    hidden = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")
    return {name: value for name, value in clean_environment().items() if name not in hidden}


def python(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


# ---- without a notebook --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda: python("-", stdin=PROGRAM), id="python - < script"),
        pytest.param(lambda: python(stdin=PROGRAM), id="python < script"),
        pytest.param(lambda: python("-c", PROGRAM), id="python -c"),
    ],
)
def test_a_script_needs_no_file(run: Any) -> None:
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, PRINTED, "")


@pytest.mark.parametrize("args", [["-"], ["-c"]])
def test_bad_usage_ends_it_in_one_message(args: list[str]) -> None:
    program = PROGRAM + BAD_USAGE
    done = python("-", stdin=program) if args == ["-"] else python("-c", program)
    assert done.returncode == 2
    assert done.stderr.startswith("Mesh(dp=2): the product of the sizes is 2, the number of ranks 1")
    assert "Traceback" not in done.stderr


LINES = f"{BAD_USAGE}1 / 0\nprint('still here')\n"


def check_session(code: int, out: str, err: str) -> None:
    """Both errors were shown as Python shows them, and the session went on."""
    assert code == 0, err
    assert out == PRINTED + "still here\n"
    assert "UsageError: Mesh(dp=2)" in err
    assert "ZeroDivisionError" in err


def test_a_session_goes_on_after_an_error() -> None:
    done = python("-i", stdin=PROGRAM + LINES)
    check_session(done.returncode, done.stdout, done.stderr)


def test_so_does_one_that_follows_a_script() -> None:
    """PYTHONINSPECT=1 asks for it, where a terminal is at the other end."""
    here, there = os.openpty()
    command = [sys.executable, "-c", PROGRAM]
    env = environment() | {"PYTHONINSPECT": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=there, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        os.write(here, f"{LINES}exit()\n".encode())
        out, err = process.communicate(timeout=60)
    os.close(here)
    os.close(there)
    check_session(process.returncode, out, err)


# ---- a notebook ------------------------------------------------------------------------------------------------


class Notebook:
    """A kernel and its answers."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self.client = manager, client

    def run(self, cell: str) -> tuple[str, str]:
        """What a cell printed, and the name of the exception it ended with."""
        return self.answer(self.client.execute(cell))

    def answer(self, asked: str) -> tuple[str, str]:
        printed = ""
        while True:
            message = self.client.get_iopub_msg(timeout=WAIT)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != asked:
                continue
            if kind == "stream":
                printed += content["text"]
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, self.reply(asked).get("ename", "")

    def reply(self, asked: str) -> dict[str, Any]:
        """How the kernel says that the cell ended."""
        while True:
            message: dict[str, Any] = self.client.get_shell_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") == asked:
                return message["content"]  # type: ignore[no-any-return]

    def interrupt_when_printed(self, cell: str, word: str) -> tuple[str, str]:
        """Ctrl-C while the cell runs, once it has said the word."""
        asked = self.client.execute(cell)
        while True:
            message = self.client.get_iopub_msg(timeout=WAIT)
            if message["msg_type"] == "stream" and word in message["content"]["text"]:
                self.manager.interrupt_kernel()
                return self.answer(asked)


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    manager, client = start_new_kernel(startup_timeout=WAIT, kernel_name="python3", env=environment())
    yield Notebook(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=False)


def test_a_cell_makes_a_mesh_of_one(notebook: Notebook) -> None:
    assert notebook.run(PROGRAM) == (PRINTED, "")


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import mpipar as mp\nmp.Mesh(dp=2)", "UsageError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_kernel_outlives_a_cell_that_fails(notebook: Notebook, cell: str, error: str) -> None:
    notebook.run("kept = 42")
    assert notebook.run(cell)[1] == error
    assert notebook.run("print(kept)") == ("42\n", "")
    assert notebook.run(PROGRAM) == (PRINTED, "")


def test_a_failing_thread_does_not_end_the_kernel(notebook: Notebook) -> None:
    cell = "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()\n"
    notebook.run(PROGRAM)
    notebook.run(cell)
    assert notebook.run("print('here')") == ("here\n", "")


def test_an_interrupt_ends_the_cell_alone(notebook: Notebook) -> None:
    loop = f"{PROGRAM}print('begun', flush=True)\nwhile True: x.square().sum().backward()\n"
    _, error = notebook.interrupt_when_printed(loop, "begun")
    assert error == "KeyboardInterrupt"
    assert notebook.run(PROGRAM) == (PRINTED, "")


def test_a_kernel_ends_when_it_is_asked_to() -> None:
    manager, client = start_new_kernel(startup_timeout=WAIT, kernel_name="python3", env=environment())
    assert Notebook(manager, client).run(PROGRAM) == (PRINTED, "")
    client.shutdown(reply=True, timeout=WAIT)
    assert manager.provisioner.process.wait(WAIT) == 0
    client.stop_channels()
    manager.cleanup_resources()
