"""How a generator of steps is run: at once, or in the background behind a handle."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from mpipar.comm.steps import Step

Steps: TypeAlias = Generator[Step, None, Any]


class Request(Protocol):
    """A step under way."""

    def test(self) -> bool: ...
    def wait(self) -> None: ...


class Transport(Protocol):
    """The ranks of a communicator and how bytes travel between them: MPI, or one rank alone."""

    rank: int
    size: int

    def run(self, step: Step) -> None: ...
    def start(self, step: Step) -> Request: ...
    def group(self, ranks: tuple[int, ...]) -> Transport: ...
    def duplicate(self) -> Transport: ...
    def broadcast_object(self, value: Any, root: int) -> Any: ...
    def allgather_object(self, value: Any) -> list[Any]: ...
    def abort(self, code: int) -> None: ...


def run_now(steps: Steps, transport: Transport) -> Any:
    """Runs all steps, each blocking; returns what the generator returns."""
    try:
        while True:
            transport.run(next(steps))
    except StopIteration as end:
        return end.value


class Handle:
    """A collective under way. Nothing moves by itself: `test` and `wait` drive it.

    Buffers that were handed in must not be written to before `wait` has returned.
    """

    def __init__(self, steps: Steps, transport: Transport, done: Callable[[float], None]) -> None:
        self._steps, self._transport, self._done = steps, transport, done
        self._request: Request | None = None
        self._result: Any = None
        self._finished = False
        self._seconds = 0.0
        self._advance()

    def test(self) -> bool:
        """Drives the collective without waiting; true when it is complete."""
        begin = perf_counter()
        while not self._finished and self._request is not None and self._request.test():
            self._advance()
        return self._count(begin)

    def wait(self) -> Any:
        """Waits for the end and returns the result; a second call returns it again."""
        begin = perf_counter()
        while not self._finished:
            if self._request is not None:
                self._request.wait()
            self._advance()
        self._count(begin)
        return self._result

    def _advance(self) -> None:
        try:
            self._request = self._transport.start(next(self._steps))
        except StopIteration as end:
            self._result, self._request, self._finished = end.value, None, True

    def _count(self, begin: float) -> bool:
        """Adds to the time spent; tells the ledger once, at the end."""
        self._seconds += perf_counter() - begin
        if self._finished and self._done is not _told:
            done, self._done = self._done, _told
            done(self._seconds)
        return self._finished


def _told(seconds: float) -> None:
    """The ledger has been told already."""
