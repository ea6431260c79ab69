"""Several threads of one rank: a kernel's rows are cut into parts, one for each thread.

The threads wait for work asleep, and BLAS has one thread in each: two pools that spin on the same cores made a step
take twice as long. All that is called here lets go of Python's lock: compiled kernels, NumPy's products.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from mpipar.errors import UsageError

LEAST = 1 << 16  # numbers a part: less is done sooner than handed over

Part = Callable[[slice], object]


class Workers:
    """The threads beside the one that calls. There are none until `start`."""

    def __init__(self) -> None:
        self.count = 1
        self._work: list[SimpleQueue[tuple[Part, slice]]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def start(self, count: int) -> None:
        """`count` threads in all from now on, never fewer than before."""
        if count < 1:
            raise UsageError(f"threads={count}: at least 1")
        for _ in range(count - max(1, self.count)):
            queue: SimpleQueue[tuple[Part, slice]] = SimpleQueue()
            Thread(target=self._serve, args=(queue,), daemon=True, name="mpipar worker").start()
            self._work.append(queue)
        self.count = max(count, self.count)

    def over(self, rows: int, width: int, part: Part) -> None:
        """Calls `part` with slices that make up range(rows), side by side where there is enough to do."""
        parts = 1 if self.count == 1 else min(self.count, rows, max(1, rows * width // LEAST))
        if parts <= 1:
            part(slice(0, rows))
            return
        bounds = [rows * k // parts for k in range(parts + 1)]
        for queue, start, stop in zip(self._work, bounds[1:], bounds[2:], strict=False):
            queue.put((part, slice(start, stop)))
        error: BaseException | None = None
        try:
            part(slice(0, bounds[1]))
        except BaseException as mine:  # the others still write into the same arrays: wait for them
            error = mine
        for _ in range(parts - 1):
            error = self._done.get() or error
        if error is not None:
            raise error

    def _serve(self, queue: SimpleQueue[tuple[Part, slice]]) -> None:
        while True:
            part, rows = queue.get()
            error: BaseException | None = None
            try:
                part(rows)
            except BaseException as mine:
                error = mine
            del part  # its arrays, too
            self._done.put(error)


workers = Workers()


def over(rows: int, width: int, part: Any) -> None:
    workers.over(rows, width, part)
