"""A transport for arrays that live on a device: MPI gets its bytes when the device has made them.

An MPI that is GPU-aware gets the device's own memory. For any other, what a step reads is copied to a buffer of the
host first, and what it fills is copied back when it is complete. The buffers are page-locked, and used again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mpipar.backend import Device
from mpipar.comm.handle import Exposed, Request, Transport
from mpipar.comm.steps import Buffer, Step

LEAST = 4096  # bytes of the smallest buffer; each larger one is twice as large
KEPT = 1 << 30  # bytes of unused buffers that are kept at most


class OnDevice:
    """`inner` for the arrays of a device.

    The device is waited for before MPI sees any buffer. That covers the copies to the host, the kernels that made
    what is sent, and the earlier copies back from a buffer that is used again.
    """

    def __init__(self, inner: Transport, device: Device, pool: Pool | None = None) -> None:
        self._inner, self._device = inner, device
        self._pool = Pool(device.host_buffer) if pool is None else pool
        self.rank, self.size = inner.rank, inner.size
        self.memories: Mapping[int, Any] = {}  # they are the host's

    def run(self, step: Step) -> None:
        mine, finish = self._handed_over(step)
        self._inner.run(mine)
        finish()

    def start(self, step: Step) -> Request:
        mine, finish = self._handed_over(step)
        return Pending(self._inner.start(mine), finish)

    def machine(self) -> tuple[int, ...]:
        return self._inner.machine()

    def group(self, ranks: tuple[int, ...]) -> OnDevice:
        return OnDevice(self._inner.group(ranks), self._device, self._pool)

    def duplicate(self) -> OnDevice:
        return OnDevice(self._inner.duplicate(), self._device, self._pool)

    def expose(self, buffer: Buffer) -> Exposed:
        """What the others read is a copy on the host, with a GPU-aware MPI too: few of them open windows on a card."""
        host = self._pool.take(len(buffer))[: len(buffer)]
        self._device.download(buffer, host)
        self._device.synchronize()
        return self._inner.expose(host)

    def broadcast_object(self, value: Any, root: int) -> Any:
        return self._inner.broadcast_object(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        return self._inner.allgather_object(value)

    def abort(self, code: int) -> None:
        self._inner.abort(code)

    def _handed_over(self, step: Step) -> tuple[Step, Callable[[], None]]:
        """The step as MPI may carry it out now, and what is to be done when it is complete."""
        if self._device.gpu_aware:
            self._device.synchronize()
            return step, nothing
        fields = [(name, getattr(step, name)) for name in dict.fromkeys((*step.reads, *step.writes))]
        wires = {name: wire for name, wire in fields if wire is not None}
        buffers = {name: self._pool.take(len(wire)) for name, wire in wires.items()}
        hosts = {name: buffers[name][: len(wire)] for name, wire in wires.items()}
        for name in wires.keys() & step.reads:
            self._device.download(wires[name], hosts[name])
        self._device.synchronize()

        def finish() -> None:
            for name in wires.keys() & step.writes:
                self._device.upload(hosts[name], wires[name])
            for buffer in buffers.values():
                self._pool.give(buffer)

        return replace(step, **hosts), finish


def nothing() -> None:
    """A GPU-aware MPI leaves nothing to do."""


class Pending:
    """A step under way; the copies back are asked for once, when it is complete."""

    def __init__(self, request: Request, finish: Callable[[], None]) -> None:
        self._request, self._finish = request, finish

    def test(self) -> bool:
        return self._request.test() and self._complete()

    def wait(self) -> None:
        self._request.wait()
        self._complete()

    def _complete(self) -> bool:
        finish, self._finish = self._finish, nothing
        finish()
        return True


class Pool:
    """Buffers of the host by size: page-locking one takes longer than a copy into it."""

    def __init__(self, make: Callable[[int], Buffer], kept: int = KEPT) -> None:
        self._make, self._room = make, kept
        self._free: dict[int, list[Buffer]] = defaultdict(list)

    def take(self, size: int) -> Buffer:
        """A flat buffer of at least so many bytes: one that was given back, or a new one."""
        whole = max(LEAST, 1 << (size - 1).bit_length())
        if not self._free[whole]:
            return self._make(whole)
        self._room += whole
        return self._free[whole].pop()

    def give(self, buffer: Buffer) -> None:
        """Takes a buffer back; lets it go where enough are kept."""
        if len(buffer) <= self._room:
            self._room -= len(buffer)
            self._free[len(buffer)].append(buffer)
