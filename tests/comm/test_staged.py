"""Arrays of a device and MPI: who gets which memory, when, and what is copied.

The device of the double (double.py) makes its copies late, when it is waited for, and complains where a buffer of the
host changes before. A failure is a missing wait, a copy too many, or memory that MPI cannot read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from double import DeviceBytes, DoubleBackend, SharedMemory

from mpipar.comm import Comm, Ledger, OnDevice, Transport
from mpipar.comm.handle import Exposed, Request
from mpipar.comm.staged import LEAST, Pool
from mpipar.comm.steps import Step
from mpipar.job import world

SIZE, RANK = world().size, world().rank
LARGE = 40_000  # elements: an allreduce of two steps


class Wary:
    """An MPI that knows cards, or one that does not: refuses the other's memory, and a device that is still busy."""

    def __init__(self, inner: Transport, xp: DoubleBackend, takes: type) -> None:
        self._inner, self._xp, self._takes = inner, xp, takes
        self.rank, self.size = inner.rank, inner.size
        self.seen: Counter[str] = Counter()

    def run(self, step: Step) -> None:
        self._inner.run(self._checked(step))

    def start(self, step: Step) -> Request:
        return self._inner.start(self._checked(step))

    def group(self, ranks: tuple[int, ...]) -> Wary:
        return Wary(self._inner.group(ranks), self._xp, self._takes)

    def duplicate(self) -> Wary:
        return Wary(self._inner.duplicate(), self._xp, self._takes)

    def expose(self, buffer: Any) -> Exposed:
        assert type(buffer) is np.ndarray, "windows are on the host's memory"
        return self._inner.expose(buffer)

    def broadcast_object(self, value: Any, root: int) -> Any:
        return self._inner.broadcast_object(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        return self._inner.allgather_object(value)

    def abort(self, code: int) -> None:
        self._inner.abort(code)

    def _checked(self, step: Step) -> Step:
        device = self._xp.device
        assert not device.busy, "the device has not been waited for"
        assert not device.asked, "a copy to the host has not been waited for"
        for name in {*step.reads, *step.writes}:
            buffer = getattr(step, name)
            assert buffer is None or type(buffer) is self._takes, f"{type(buffer).__name__} for {name}"
        self.seen[type(step).__name__] += 1
        return step


def communicator(gpu_aware: bool) -> tuple[Comm, Wary]:
    xp = DoubleBackend(gpu_aware)
    wary = Wary(world().transport, xp, SharedMemory if gpu_aware else np.ndarray)
    return Comm(OnDevice(wary, xp.device), "all", Ledger(), xp), wary


BACKGROUND: dict[str, Callable[[Comm, Any], Any]] = {
    "allreduce": lambda comm, x: comm.iallreduce(x),
    "allgather": lambda comm, x: comm.iallgather(x),
    "reduce_scatter": lambda comm, x: comm.ireduce_scatter(x),
    "broadcast": lambda comm, x: comm.ibroadcast(x),
}
NOW: dict[str, Callable[[Comm, Any], Any]] = {
    "allreduce": lambda comm, x: comm.allreduce(x),
    "allgather": lambda comm, x: comm.allgather(x),
    "reduce_scatter": lambda comm, x: comm.reduce_scatter(x),
    "broadcast": lambda comm, x: comm.broadcast(x),
    "gather": lambda comm, x: comm.gather(x, SIZE - 1),
    "scatter": lambda comm, x: comm.scatter(x if comm.rank == 0 else None),
    "sendrecv": lambda comm, x: comm.sendrecv(x, (RANK + 1) % SIZE, (RANK - 1) % SIZE),
}
awareness = pytest.mark.parametrize("gpu_aware", [False, True], ids=["staged", "gpu-aware"])
lengths = pytest.mark.parametrize("length", [0, 7, LARGE])


@awareness
@lengths
@pytest.mark.parametrize("name", NOW)
def test_each_collective_waits_and_gives_the_numbers_of_the_host(
    name: str, length: int, gpu_aware: bool
) -> None:
    comm, wary = communicator(gpu_aware)
    host = np.arange(length) * (RANK + 1.0)
    for _ in range(3):  # the buffers of the first time are used again
        found = NOW[name](comm, comm.xp.from_host(host) + 1)
        wanted = NOW[name](world(), host + 1)
        assert (found is None) == (wanted is None)
        assert found is None or comm.xp.to_host(found).tobytes() == wanted.tobytes()
    copies = {key: comm.xp.copies[key] for key in ("download", "upload")}
    assert copies == ({"download": 0, "upload": 0} if gpu_aware else buffers(name, length))
    assert wary.seen.total() == 3 * steps(name, length)


def steps(name: str, length: int) -> int:
    large = 8 * length * SIZE > 64 * 1024
    return 2 if name == "allreduce" and large else 1


def buffers(name: str, length: int) -> dict[str, int]:
    """Every step reads one and fills one, but for the ranks that gather and scatter leave out."""
    count = 3 * steps(name, length)
    return {
        "download": count if name != "scatter" or RANK == 0 else 0,
        "upload": count if name != "gather" or RANK == SIZE - 1 else 0,
    }


@awareness
@lengths
@pytest.mark.parametrize("name", BACKGROUND)
def test_in_the_background_the_copies_back_come_at_the_end(name: str, length: int, gpu_aware: bool) -> None:
    comm, _ = communicator(gpu_aware)
    host = np.arange(length) * (RANK + 1.0)
    wanted = [NOW[name](world(), host + k) for k in range(3)]
    handles = [BACKGROUND[name](comm, comm.xp.from_host(host) + k) for k in range(3)]
    for handle in handles[::2]:
        while not handle.test():
            pass
    for handle, there in zip(handles, wanted, strict=True):
        assert comm.xp.to_host(handle.wait()).tobytes() == there.tobytes()
        assert comm.xp.to_host(handle.wait()).tobytes() == there.tobytes()
    per_call = 0 if gpu_aware else steps(name, length)
    assert comm.xp.copies["upload"] == 3 * per_call


def test_an_mpi_without_cards_is_never_given_their_memory() -> None:
    """What would happen without the copies: mpi4py refuses it, or reads where it must not."""
    xp = DoubleBackend()
    bare = Comm(world().transport, "all", Ledger(), xp)
    with pytest.raises((TypeError, BufferError, ValueError)):
        bare.allreduce(xp.zeros((3,), "float32"))
    assert isinstance(xp.wire(xp.zeros((3,), "float32")), DeviceBytes)


def test_a_missing_wait_is_noticed() -> None:
    """That the tests above could fail: a device that says it has done what it has not."""
    comm, _ = communicator(gpu_aware=False)
    comm.xp.device.synchronize = lambda: None
    with pytest.raises(AssertionError, match="has not been waited for"):
        comm.allgather(comm.xp.zeros((3,), "float32") + 1)


def test_buffers_are_used_again_and_bounded() -> None:
    made: list[int] = []

    def make(size: int) -> Any:
        made.append(size)
        return np.zeros(size, np.uint8)

    pool = Pool(make, kept=4 * LEAST)
    first, second = pool.take(1), pool.take(LEAST)
    assert (len(first), len(second)) == (LEAST, LEAST)
    pool.give(first)
    assert pool.take(17) is first
    larger = pool.take(LEAST + 1)
    assert made == [LEAST, LEAST, 2 * LEAST]
    for buffer in (first, second, larger):
        pool.give(buffer)
    pool.give(np.zeros(LEAST, np.uint8))  # one too many to keep
    assert [pool.take(LEAST) is kept for kept in (second, first)] == [True, True]
    assert len(pool.take(0)) == LEAST
    assert made == [LEAST, LEAST, 2 * LEAST, LEAST]


@pytest.fixture(autouse=True)
def alike_on_all_ranks() -> Iterator[None]:
    yield
    world().barrier()
