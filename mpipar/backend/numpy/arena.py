"""Memory that the other ranks of this machine read and write: where collectives find arrays without a copy.

Each process has one stretch of it: an anonymous file (memfd_create), mapped once and as long as the process may ever
want; only what is used takes memory. Others map it through /proc/PID/fd. It has no name and no part in /dev/shm: when
the processes have ended, however they ended, nothing is left. Blocks that were freed are used again, the lowest first.
"""

from __future__ import annotations

import os
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from mmap import mmap
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from mpipar.backend.base import Array, DType, Shape
from mpipar.backend.dtypes import dtype

ALIGN = 64  # bytes: a line of the cache
STEP = 1 << 20  # bytes by which the part in use grows at least


class Place(NamedTuple):
    """What another process needs to find this one's memory, and to know that it has found that."""

    pid: int
    fd: int
    size: int
    token: bytes


class Block:
    """A stretch in use, as NumPy's array interface; given back when the last array that views it has died."""

    __slots__ = ("__array_interface__", "_returned", "_stretch")

    def __init__(self, base: int, stretch: tuple[int, int], returned: deque[tuple[int, int]]) -> None:
        self._stretch, self._returned = stretch, returned
        start, stop = stretch
        self.__array_interface__ = {
            "version": 3, "data": (base + start, False), "typestr": "|u1", "shape": (stop - start,),
        }  # fmt: skip

    def __del__(self) -> None:
        self._returned.append(self._stretch)


class Memory:
    """This process's shared memory. Closed, and without any, until `open`."""

    def __init__(self, fold: Callable[[Sequence[Array], Sequence[Array], str], None]) -> None:
        self.least = 1 << 16  # bytes of an array from which shared memory pays
        self.fold = fold
        self._memory: Array | None = None
        self._base = self._fd = 0
        self._top = self._granted = ALIGN  # the first bytes hold the token
        self._free: list[tuple[int, int]] = []  # stretches below the top, in order, none touching the next
        self._returned: deque[tuple[int, int]] = deque()  # by finalizers, which may run at any time
        self._lock = Lock()

    def open(self, share: int) -> Place | None:
        """Makes the memory, at most a `share`-th of the machine's; None where this system has no such thing."""
        size = os.sysconf("SC_PHYS_PAGES") // share * os.sysconf("SC_PAGE_SIZE")
        place = Place(os.getpid(), -1, size, os.urandom(16))
        try:
            self._fd = os.memfd_create("mpipar")
            place = place._replace(fd=self._fd)
            os.ftruncate(self._fd, size)
            os.posix_fallocate(self._fd, 0, ALIGN)
            memory = mapped(self._fd, size)
        except (AttributeError, OSError, ValueError):
            return None
        memory[: len(place.token)] = np.frombuffer(place.token, np.uint8)
        self._memory, self._base = memory, memory.__array_interface__["data"][0]
        return place

    def attach(self, place: Place) -> Any:
        """The memory of another process, or of this one; None where it cannot be had."""
        if place.fd == self._fd and place.pid == os.getpid():
            return self._memory
        try:
            fd = os.open(f"/proc/{place.pid}/fd/{place.fd}", os.O_RDWR)
        except OSError:
            return None
        try:
            memory = mapped(fd, place.size)
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        return memory if memory[: len(place.token)].tobytes() == place.token else None

    def empty(self, shape: Shape, dtype_: DType) -> Array | None:
        """An array in this memory; None where there is no room."""
        kind = dtype(dtype_)
        n_bytes = prod(shape) * kind.itemsize
        with self._lock:
            stretch = self._taken(max(1, -(-n_bytes // ALIGN)) * ALIGN)
        if stretch is None:
            return None
        block = np.asarray(Block(self._base, stretch, self._returned))
        return block[:n_bytes].view(kind).reshape(shape)

    def empty_shared(self, shape: Shape, dtype_: DType) -> Array:
        """An array in this memory where that pays and there is room, else an ordinary one."""
        kind = dtype(dtype_)
        pays = self._memory is not None and prod(shape) * kind.itemsize >= self.least
        found = self.empty(shape, kind) if pays else None
        return np.empty(shape, kind) if found is None else found

    def start(self, x: Array) -> int:
        """Where in this memory a contiguous array begins; -1 where it is not there."""
        if self._memory is None or not x.flags.c_contiguous:
            return -1
        start: int = x.__array_interface__["data"][0] - self._base
        return start if 0 <= start < self._memory.size else -1

    def view(self, memory: Any, start: int, shape: Shape, dtype_: DType) -> Array:
        """The contiguous array that begins there in the memory of some process."""
        kind = dtype(dtype_)
        part: Array = memory[start : start + prod(shape) * kind.itemsize]
        return part.view(kind).reshape(shape)

    def _taken(self, size: int) -> tuple[int, int] | None:
        if self._memory is None:
            return None
        while self._returned:
            self._give_back(self._returned.popleft())
        for place, (start, stop) in enumerate(self._free):
            if stop - start >= size:
                self._free[place : place + 1] = [(start + size, stop)] if stop - start > size else []
                return start, start + size
        start = self._free.pop()[0] if self._free and self._free[-1][1] == self._top else self._top
        if not self._grown(start + size):
            if start < self._top:
                self._free.append((start, self._top))
            return None
        self._top = start + size
        return start, self._top

    def _grown(self, top: int) -> bool:
        """Asks for memory before it is written to: a page that cannot be had would end the process."""
        if top <= self._granted:
            return True
        assert self._memory is not None, "it is open"
        wanted = min(max(top, self._granted + STEP), self._memory.size)
        if top > wanted:
            return False
        try:
            os.posix_fallocate(self._fd, self._granted, wanted - self._granted)
        except OSError:
            return False
        self._granted = wanted
        return True

    def _give_back(self, stretch: tuple[int, int]) -> None:
        """Joins it with its neighbours."""
        insort(self._free, stretch)
        place = self._free.index(stretch)
        first, last = max(0, place - 1), min(len(self._free), place + 2)
        joined: list[tuple[int, int]] = []
        for start, stop in self._free[first:last]:
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], stop
            else:
                joined.append((start, stop))
        self._free[first:last] = joined


def mapped(fd: int, size: int) -> Array:
    return np.frombuffer(mmap(fd, size), np.uint8)
