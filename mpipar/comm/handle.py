"""How a generator of steps is run: at once, or in the background behind a handle."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from time import perf_counter
from typing import Any, Protocol, TypeAlias

from mpipar.comm.steps import Buffer, Step

Steps: TypeAlias = Generator[Step, None, Any]


class Request(Protocol):
    """A step under way."""

    def test(self) -> bool: ...
    def wait(self) -> None: ...


class Exposed(Protocol):
    """Buffers that the ranks have opened to each other, until all of them close it."""

    def close(self) -> None: ...


class Transport(Protocol):
    """The ranks of a communicator and how bytes travel between them: MPI, or one rank alone."""

    rank: int
    size: int
    memories: Mapping[int, Any]  # by rank: what `comm.shared.join` found, of ranks of this machine

    def __hash__(self) -> int: ...
    def run(self, step: Step) -> None: ...
    def start(self, step: Step) -> Request: ...
    def expose(self, buffer: Buffer) -> Exposed:
        """What the steps `Fetch` of all ranks read from. All ranks call."""

    def machine(self) -> tuple[int, ...]:
        """The ranks on this rank's machine. All ranks call."""

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


class Queue:
    """Where background collectives of several steps take those after the first: one collective after the other.

    Each rank drives its handles in an order of its own, and MPI matches collectives by the order in which they start.
    So later steps have a communicator to themselves, and there the handles follow each other as they were made.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.handles: list[Handle] = []  # those that have not ended


class Handle:
    """A collective under way. Nothing moves by itself: `test` and `wait` drive it.

    Buffers that were handed in must not be written to before `wait` has returned.
    """

    def __init__(
        self, steps: Steps, transport: Transport, done: Callable[[float], None], queue: Queue | None = None
    ) -> None:
        self._steps, self._transport, self._done = steps, transport, done
        self._queue: Queue | None = None
        self._before: Handle | None = None  # whose later steps come before mine
        self._request: Request | None = None
        self._result: Any = None
        self._finished = False
        self._seconds = 0.0
        self._advance()
        if queue is not None and not self._finished:
            self._join(queue)

    def test(self) -> bool:
        """Drives the collective without waiting; true when it is complete."""
        may_go_on = self._before is None or self._before.test()
        begin = perf_counter()
        while not self._finished and self._is_there() and may_go_on:
            self._advance()
        return self._count(begin)

    def wait(self) -> Any:
        """Waits for the end and returns the result; a second call returns it again."""
        if self._before is not None:
            self._before.wait()
        begin = perf_counter()
        while not self._finished:
            if self._request is not None:
                self._request.wait()
            self._advance()
        self._count(begin)
        return self._result

    def _is_there(self) -> bool:
        """Whether the step under way is complete."""
        if self._request is not None and self._request.test():
            self._request = None
        return self._request is None

    def _join(self, queue: Queue) -> None:
        self._queue, self._transport = queue, queue.transport
        self._before = next(reversed(queue.handles), None)
        queue.handles.append(self)

    def _advance(self) -> None:
        try:
            self._request = self._transport.start(next(self._steps))
        except StopIteration as end:
            self._result, self._request, self._finished = end.value, None, True
            self._before = None
            if self._queue is not None:
                self._queue.handles.remove(self)

    def _count(self, begin: float) -> bool:
        """Adds to the time spent; tells the ledger once, at the end."""
        self._seconds += perf_counter() - begin
        if self._finished and self._done is not _told:
            done, self._done = self._done, _told
            done(self._seconds)
        return self._finished


def _told(seconds: float) -> None:
    """The ledger has been told already."""
