"""One job at a time in a directory: a lock of the kernel, which frees it when the process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from mpipar.errors import UsageError

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # of some network file systems
OWNER_BYTES = 200


class Lock:
    """The lock on a directory, held from its making until `release`; a context manager.

    The file ``.lock`` names the owner (host, process, job) and stays: removing it would let two processes hold a
    lock each, on two files of one name. A child that was forked and not started anew holds the lock, too.
    Where the file system has no locks, `held` is False. Raises UsageError with the owner where another process holds
    it, OSError where the file cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = Path(directory) / LOCK
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            self.held = _locked(self._fd)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, owner().encode(), 0)
        except BlockingIOError:
            told = in_use(directory, self._fd)
            os.close(self._fd)
            raise UsageError(told) from None
        except OSError:
            os.close(self._fd)
            raise

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def refuse_locked(directory: str | os.PathLike[str]) -> None:
    """Raises UsageError with the owner where another process holds the lock of a directory. Leaves no trace."""
    try:
        fd = os.open(Path(directory) / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # whoever takes the lock will find out
    try:
        _locked(fd, fcntl.LOCK_SH)
    except BlockingIOError:
        raise UsageError(in_use(directory, fd)) from None
    finally:
        os.close(fd)


def in_use(directory: str | os.PathLike[str], fd: int) -> str:
    holder = os.pread(fd, OWNER_BYTES, 0).decode(errors="replace").strip()
    return (
        f"{directory} is in use by {holder or 'a job that is just starting'}: "
        "wait for its end, or choose another directory"
    )


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def owner() -> str:
    """This process in one line: host, process and, under SLURM, the job."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"host {socket.gethostname()}, pid {os.getpid()}" + (f", job {job}" if job else "") + "\n"
