"""One job at a time in a directory; the kernel frees the lock however its holder ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpipar import UsageError
from mpipar.job import lock as module
from mpipar.job.launcher import clean_environment
from mpipar.job.lock import Lock, refuse_locked

HOLDER = """
import sys, time
from mpipar.job.lock import Lock, refuse_locked
lock = Lock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    env = clean_environment() | {"SLURM_JOB_ID": "42"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.launches
def test_a_second_job_is_refused_with_the_owner_until_the_first_has_ended(tmp_path: Path) -> None:
    process = holder(tmp_path)
    owner = rf"host .+, pid {process.pid}, job 42: wait for its end, or choose another directory"
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"{tmp_path} is in use by {owner}"):
            Lock(tmp_path)
        with pytest.raises(UsageError, match=rf"{tmp_path} is in use by {owner}"):
            refuse_locked(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with Lock(tmp_path) as lock:
        assert lock.held


def test_to_look_leaves_no_trace(tmp_path: Path) -> None:
    refuse_locked(tmp_path)
    refuse_locked(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).release()
    refuse_locked(tmp_path)
    Lock(tmp_path).release()


def test_it_is_held_from_one_end_to_the_other(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(UsageError, match=f"pid {os.getpid()}:"):
        Lock(tmp_path)
    Lock(tmp_path).release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        Lock(tmp_path)
    assert (tmp_path / "victim").read_text() == "theirs"


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(module.NO_LOCKS[0], "no locks")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with Lock(tmp_path) as lock:
        assert not lock.held
