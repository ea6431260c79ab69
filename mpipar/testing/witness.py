"""A rank's side of the referee: tells it where this rank stands, and answers while the tests may be stuck."""

from __future__ import annotations

import faulthandler
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mpipar.comm import Comm
from mpipar.job.ending import abort_quietly

DUMP_SIGNAL = signal.SIGRTMIN + 7  # one that no program or launcher uses
REFEREE = Path(__file__).with_name("referee.py")
HARNESS = ("/_pytest/", "/pluggy/", "/pytest/__main__.py", "/bin/pytest", "/importlib/", "<frozen ")


@dataclass(frozen=True)
class Address:
    """Where the referee listens, and the word by which it knows our ranks."""

    host: str
    port: int
    token: str


def start_referee(
    size: int, timeout: float, grace: float, one_machine: bool
) -> tuple[subprocess.Popen[str], Address]:
    """Starts the referee on this rank's stdout. It ends by itself when all ranks have said goodbye."""
    token = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1" if one_machine else "", 0), backlog=size) as listener:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(REFEREE)],
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        settings = {
            "listener": listener.fileno(),
            "token": token,
            "size": size,
            "timeout": timeout,
            "grace": grace,
            "dump_signal": DUMP_SIGNAL,
        }
        assert process.stdin is not None, "a pipe was asked for"
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.close()
        host = "127.0.0.1" if one_machine else socket.gethostname()
        return process, Address(host, listener.getsockname()[1], token)


class Witness:
    """Speaks to the referee for this rank."""

    def __init__(self, comm: Comm, address: Address) -> None:
        self._comm, self._waits = comm, False
        self._test_file = ""
        self._lock = threading.Lock()
        self._dump = tempfile.NamedTemporaryFile("w", prefix=f"mpipar-rank{comm.rank}-")  # noqa: SIM115
        faulthandler.register(DUMP_SIGNAL, self._dump, all_threads=False)
        self._link = socket.create_connection((address.host, address.port))
        self._lines = self._link.makefile()
        host, dump = socket.gethostname(), self._dump.name
        self.tell("hello", token=address.token, rank=comm.rank, pid=os.getpid(), host=host, dump=dump)
        if not self._lines.readline():  # its welcome: from here on nothing goes unseen
            raise RuntimeError("the referee of the test run did not start: its message stands above")
        threading.Thread(target=self._answer, name="mpipar test witness", daemon=True).start()

    def tell(self, kind: str, **what: Any) -> None:
        """Sends one message. A referee that has gone is no reason to fail."""
        line = json.dumps({"kind": kind, **what}).encode() + b"\n"
        with self._lock, suppress(OSError):
            self._link.sendall(line)

    def enter(self, place: str, test_file: str = "") -> None:
        """From here on this rank is in `place`, which must end within the deadline; "" has none."""
        self._test_file = test_file
        self.tell("enter", place=place)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, this rank waits for the others."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def close(self) -> None:
        self.tell("bye")
        faulthandler.unregister(DUMP_SIGNAL)
        self._dump.close()
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        with suppress(OSError):
            for line in self._lines:
                match json.loads(line)["kind"]:
                    case "stack":
                        self.tell("stack", text=self._stack(), waits=self._waits)
                    case "abort":
                        abort_quietly(self._comm, 1)

    def _stack(self) -> str:
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        return stack_text(main, self._test_file)


def stack_text(frame: FrameType | None, test_file: str) -> str:
    """Where a thread stands: from the test file on inwards, without the frames of pytest."""
    frames = [entry for entry in traceback.extract_stack(frame) if not is_harness(entry.filename)]
    first = next((i for i, entry in enumerate(frames) if entry.filename == test_file), 0)
    return "".join(traceback.format_list(frames[first:])).rstrip() or "no Python code"


def is_harness(filename: str) -> bool:
    return any(part in filename for part in HARNESS)
