"""The ledger: what was communicated, by whom, how many bytes, how long, and from which line.

`bytes` counts the bytes of this rank that at least one other rank needs, whatever algorithm carries them:
allreduce and send all of them; allgather and gather my piece; reduce_scatter, alltoall and scatter all
but the part that stays with me; broadcast everything at the root and nothing elsewhere. On one rank: 0.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os.path import dirname
from typing import NamedTuple

PACKAGE = dirname(dirname(__file__))
KEPT = 10_000


class Call(NamedTuple):
    """One collective or message, as one rank saw it."""

    label: str  # of the communicator: the mesh axis
    operation: str
    bytes: int  # sent by this rank
    seconds: float
    site: str  # file:line of the first frame outside mpipar, or inside its nn, models, parallel, optim


@dataclass
class Ledger:
    """The last calls of this rank and the totals of all of them."""

    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0
    last: deque[Call] = field(default_factory=lambda: deque(maxlen=KEPT))
    _listeners: list[Callable[[Call], object]] = field(default_factory=list)

    def add(self, label: str, operation: str, n_bytes: int, seconds: float, site: str = "") -> None:
        """`site`: where it was started, if that is not the line that is running now."""
        call = Call(label, operation, n_bytes, seconds, site or call_site())
        self.calls += 1
        self.bytes += n_bytes
        self.seconds += seconds
        self.last.append(call)
        for listener in self._listeners:
            listener(call)

    @contextmanager
    def record(self) -> Iterator[list[Call]]:
        """Every call inside the block, however many: ``with mesh.ledger.record() as calls: …``."""
        calls: list[Call] = []
        with self.told_to(calls.append):
            yield calls

    @contextmanager
    def told_to(self, listener: Callable[[Call], object]) -> Iterator[None]:
        """Inside the block `listener` is told every call when it has ended."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners = [other for other in self._listeners if other is not listener]


CARRIERS = tuple(f"{PACKAGE}/{room}" for room in ("comm/", "tensor/", "profile/", "mesh.py"))


def call_site() -> str:
    """Where the communication was written: the first frame outside the rooms that only carry it out."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(CARRIERS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
