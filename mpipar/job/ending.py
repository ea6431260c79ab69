"""How a job of several ranks ends before its time: all ranks together, or all at once.

Together: every rank meets the same end (a bad flag, `sys.exit(3)`, Ctrl-C). They find each other within a
second, rank 0 says what there is to say, and each leaves MPI in good order with its exit code.
At once: one rank fails while the others go on. It speaks, and MPI ends the job; without that the others
would wait for it for ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mpipar.comm.comm import Comm
from mpipar.comm.handle import Handle
from mpipar.job.launcher import launched_rank, launched_size

PATIENCE = 1.0  # seconds in which all ranks must arrive to end together
PRECEDENCE = 0.2  # seconds that rank 0 has to speak before the others do: of equal failures one is shown
READ_LIMIT = 1.0  # seconds that the launcher has to read what the last rank to speak has written
START_LIMIT = 10.0  # seconds in which the other ranks must come and start MPI, where a rank ends before it


class Job:
    """This process as a rank of its job, and the ways to end it."""

    def __init__(self, start: Callable[[], Comm]) -> None:
        self.rank, self.size = launched_rank(), launched_size()
        self.ended = False
        self.said = ""  # by rank 0 already; by another rank: what it would have said
        self._start = start
        self._control: Comm | None = None
        self._claims: list[socket.socket] = []
        self._pid = os.getpid()

    def started(self, world: Comm) -> None:
        """MPI runs: from here on the ranks can find each other. Collective."""
        self.rank, self.size = world.rank, world.size
        self._control = world.duplicate("ending")

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.size}"

    def is_mine(self) -> bool:
        """False in a process that was forked from a rank: its end is not the job's."""
        return os.getpid() == self._pid

    def leave(self, code: int, text: str, alone: str) -> None:
        """Returns when all ranks leave, and the caller exits with `code`; otherwise ends the job with it.

        `text` is said once where all leave, `alone` by a rank that the others do not follow.
        """
        self._begin_end()
        control = self._join(text)
        if control is None:
            self._say_unjoined(text)
        elif _all_arrive(control.ibarrier()):
            self._say_together(control, text)
        else:
            self._say_alone(alone)
            self.abort(code)

    def fail(self, trace: str, show: Callable[[], None]) -> None:
        """Ends the job at once with code 1; `show` prints `trace`, on one of the ranks that have the same."""
        self._begin_end()
        control = self._join(trace)
        if self.rank > 0:
            time.sleep(PRECEDENCE)
        if self._claim(trace):
            show()
            time.sleep(PRECEDENCE if self.rank > 0 else 0)  # holds the claim until the others have come here
        else:
            time.sleep(PATIENCE)  # the rank that speaks must not be ended in the middle of a word
        if control is not None:
            self.abort(1)

    def abort(self, code: int) -> None:
        """Ends all ranks now."""
        abort_quietly(self._control, code)

    def _begin_end(self) -> None:
        self.ended = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would break off the first

    def _join(self, text: str) -> Comm | None:
        """A communicator with the other ranks, for which MPI is started if need be; None where it cannot be.

        A rank that ends before MPI has started would leave the others waiting in MPI's own start.
        """
        if self._control is None and self.size > 1:
            with _bounded_start(f"{self.name}: {text}"), suppress(Exception):
                self._start()
        return self._control

    def _say_together(self, control: Comm, text: str) -> None:
        texts = control.allgather_object(text)
        if self.rank == 0:
            say(_merged(texts, self.said))
        control.barrier()  # a launcher may end the other ranks at the first exit: rank 0 has spoken by then

    def _say_alone(self, text: str) -> None:
        if self._claim(text):
            say(f"{text}\n")
        else:
            time.sleep(PATIENCE)

    def _say_unjoined(self, text: str) -> None:
        if self._claim(text):
            say(f"{text}\n" if text else "")
            if self.size > 1:
                time.sleep(PRECEDENCE)  # holds the claim until the other ranks have come here

    def _claim(self, text: str) -> bool:
        """True for the first rank of a machine that wants to say `text`: a name can be bound only once.

        Ranks of a job have their launcher as parent; the name is free again when the process has ended.
        """
        if self.size == 1:
            return True
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._claims.append(claim)
        try:
            claim.bind(f"\0mpipar-{os.getppid()}-{digest}")
        except OSError:
            return False
        return True


def abort_quietly(comm: Comm | None, code: int) -> None:
    """Ends all ranks now. What MPI itself would say about it is dropped: the reason has been given."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(OSError):
        _wait_for_reader(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        if comm is not None:
            comm.abort(code)
    finally:
        os._exit(code)


def _wait_for_reader(fd: int) -> None:
    """Until the launcher has read what was written: it drops what is still in the pipe when a job is aborted."""
    deadline = time.monotonic() + READ_LIMIT
    while stat.S_ISFIFO(os.fstat(fd).st_mode) and time.monotonic() < deadline:
        (unread,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))
        if unread == 0:
            break
        time.sleep(0.002)


def say(text: str) -> None:
    """One write to stderr: lines of several ranks must not mix."""
    if text and sys.stderr is not None:
        with suppress(Exception):
            sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()


def _all_arrive(barrier: Handle) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not barrier.test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _merged(texts: list[str], said: str) -> str:
    """The texts of all ranks, each once; with its ranks where they differ."""
    by_text: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text and text != said:
            by_text.setdefault(text, []).append(rank)
    if len(by_text) == 1:
        return f"{next(iter(by_text)).rstrip()}\n"
    return "".join(f"rank {', '.join(map(str, ranks))}: {text.rstrip()}\n" for text, ranks in by_text.items())


@contextmanager
def _bounded_start(text: str) -> Iterator[None]:
    """Ends this process where MPI's start takes too long: it waits for all ranks, with the GIL held."""
    command = [sys.executable, "-S", "-E", "-c", WATCHER, str(START_LIMIT)]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert watcher.stdin is not None, "a pipe was asked for"
    watcher.stdin.write(text.rstrip() + "\n")
    watcher.stdin.close()
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


WATCHER = """
import os, signal, sys, time
parent, limit = os.getppid(), float(sys.argv[1])
text = sys.stdin.read()
deadline = time.monotonic() + limit
while time.monotonic() < deadline and os.getppid() == parent:
    time.sleep(0.05)
if os.getppid() == parent:
    sys.stderr.write(text + f"The other ranks did not come to start MPI within {limit:g} s: the job ends.\\n")
    sys.stderr.flush()
    os.kill(parent, signal.SIGKILL)
"""
