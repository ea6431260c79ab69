"""Starts a parallel program from a test, as a user would from a shell, and waits for its end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mpipar.job.launcher import clean_environment

# Open MPI refuses more ranks than cores, and root, unless it is told otherwise; other MPIs do not look.
OVERSUBSCRIBE = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
}
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Not for the child: it is not part of our pytest session, and unbuffered lines of ranks would mix.
HOST = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST", "PYTHONUNBUFFERED")


@dataclass(frozen=True)
class Finished:
    """How a program ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class LaunchTimeout(AssertionError):
    """The program was still running after `timeout` seconds and was killed; `finished` has its output so far."""

    def __init__(self, command: Sequence[str], finished: Finished) -> None:
        super().__init__(
            f"still running after {finished.seconds:.1f} s, and killed: {shlex.join(command)}\n"
            f"--- stdout so far ---\n{finished.stdout}\n--- stderr so far ---\n{finished.stderr}"
        )
        self.finished = finished


def launch(
    n: int,
    script: str | os.PathLike[str],
    *args: str,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    python_args: Sequence[str] = (),
    mpirun: str | os.PathLike[str] | None = None,
) -> Finished:
    """Runs `mpirun -n n python script args…` and returns how it ended; n = 0 runs python without mpirun.

    `script` is a path, or the text of a program (with a newline in it). The environment is ours without what a
    launcher set, with `env` on top. `mpirun` defaults to the one beside this Python, then the one on PATH.
    After `timeout` seconds all of its processes are killed and LaunchTimeout is raised.

        done = launch(2, "from mpipar.job import world\\nprint(world().rank)")
        assert done.returncode == 0, done.stderr
    """
    with _as_file(script) as path:
        command = [sys.executable, *python_args, path, *map(str, args)]
        if n > 0:
            command = [str(mpirun or find_mpirun()), "-n", str(n), *command]
        return _run(command, timeout, _environment(env), cwd)


def find_mpirun() -> str:
    """The mpirun beside this Python, which fits a wheel in the same venv; else the one on PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError("no mpirun beside this Python or on PATH: write  pip install 'mpipar[mpich]'")
    return found


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    env = {name: value for name, value in clean_environment().items() if name not in HOST}
    if "PYTHONPATH" in env:  # the child may run in another directory
        env["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(entry) for entry in env["PYTHONPATH"].split(os.pathsep)
        )
    return env | OVERSUBSCRIBE | (AS_ROOT if os.geteuid() == 0 else {}) | dict(extra or {})


@contextmanager
def _as_file(script: str | os.PathLike[str]) -> Iterator[str]:
    text = os.fspath(script)
    if "\n" not in text:
        yield text
        return
    with tempfile.TemporaryDirectory(prefix="mpipar-launch-") as folder:
        path = Path(folder, "program.py")
        path.write_text(text)
        yield str(path)


def _run(
    command: list[str], timeout: float, env: dict[str, str], cwd: str | os.PathLike[str] | None
) -> Finished:
    # Files, not pipes: a process that outlives mpirun would keep a pipe open and us waiting.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill_tree(process)
            raise LaunchTimeout(command, _finished(process, stdout, stderr, begin)) from None
        except BaseException:
            _kill_tree(process)
            raise
        return _finished(process, stdout, stderr, begin)


def _finished(
    process: subprocess.Popen[bytes], stdout: IO[bytes], stderr: IO[bytes], begin: float
) -> Finished:
    seconds = time.perf_counter() - begin
    return Finished(process.wait(), _text(stdout), _text(stderr), seconds)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kills mpirun and all that it started: launchers put ranks into sessions of their own."""
    for pid in (process.pid, *_descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += children.get(one, [])
    return found[1:]
