"""`launch` starts a program as a user would. A failure shows what the program printed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from mpipar.testing import LaunchTimeout, find_mpirun, launch

pytestmark = pytest.mark.launches

HELLO = "import os, sys\nprint(os.environ.get('X'), os.getcwd(), sys.argv[1:], flush=True)\n"


def test_runs_text_with_arguments_environment_and_directory(tmp_path: Path) -> None:
    done = launch(2, HELLO, "a", "b", env={"X": "1"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"1 {tmp_path} ['a', 'b']") == 2


def test_runs_a_file_without_mpirun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys; print(len(os.environ.keys() & {'PMI_SIZE', 'PMIX_RANK'})); sys.exit(7)"
    )
    done = launch(0, script)
    assert (done.returncode, done.stdout) == (7, "0\n")


def test_passes_arguments_to_python() -> None:
    assert launch(0, "import sys\nprint(sys.flags.optimize)\n", python_args=["-O"]).stdout == "1\n"


def test_relative_entries_of_pythonpath_hold_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "found.py").write_text("print('found')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "here")
    assert launch(0, "import found\n", cwd="/").stdout == "found\n"


def test_a_program_that_does_not_end_is_killed_with_all_its_processes() -> None:
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '1234'], start_new_session=True)\n"
        "print(f'pids {os.getpid()} {child.pid}\\n', end='', flush=True)\n"
        "time.sleep(100)\n"
    )
    begin = time.perf_counter()
    with pytest.raises(LaunchTimeout, match="still running after") as caught:
        launch(2, program, timeout=2)
    assert time.perf_counter() - begin < 10
    pids = [word for line in caught.value.finished.stdout.splitlines() for word in line.split()[1:]]
    assert len(pids) == 4
    assert "pids" in str(caught.value), "the message shows the output so far"
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: str) -> bool:
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False
    ).stdout
    return bool(state) and not state.startswith("Z")


def test_the_mpirun_beside_python_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("beside", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mpirun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path") + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr("sys.executable", str(tmp_path / "elsewhere" / "python"))
    assert find_mpirun() == str(tmp_path / "path" / "mpirun")
    monkeypatch.setattr("sys.executable", str(tmp_path / "beside" / "python"))
    assert find_mpirun() == str(tmp_path / "beside" / "mpirun")


def test_no_mpirun_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match=r"pip install 'mpipar\[mpich\]'"):
        find_mpirun()
