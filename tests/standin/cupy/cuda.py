"""The part of cupy.cuda that is used. STANDIN_CARDS, STANDIN_DRIVER and STANDIN_RUNTIME say what machine it is,
and CUDA_VISIBLE_DEVICES what of its cards is seen, as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

CAPACITY = 80_000_000_000


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory's."""


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime's."""


# ---- memory -----------------------------------------------------------------------------------------------


class Pool:
    """Counts what is in use; CUPY_GPU_MEMORY_LIMIT bounds it, as it does CuPy's."""

    def __init__(self) -> None:
        self.used = 0

    def malloc(self, size: int) -> Memory:
        limit = int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", CAPACITY))
        if self.used + size > limit:
            raise OutOfMemoryError(
                f"Out of memory allocating {size} bytes (allocated so far: {self.used} bytes)"
            )
        return Memory(self, size)

    def used_bytes(self) -> int:
        return self.used


class Memory:
    __slots__ = ("pool", "size")

    def __init__(self, pool: Pool, size: int) -> None:
        self.pool, self.size = pool, size
        pool.used += size

    def __del__(self) -> None:
        self.pool.used -= self.size


pool = Pool()
allocators: list[Callable[[int], Any]] = [pool.malloc]


def set_allocator(allocator: Callable[[int], Any]) -> None:
    allocators[:] = [allocator]


def allocate(size: int) -> Any:
    return allocators[0](size)


memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)


class PinnedMemory:
    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)


def PinnedMemoryPointer(mem: PinnedMemory, offset: int) -> Any:
    return memoryview(mem.bytes)[offset:]


# ---- cards and the stream -----------------------------------------------------------------------------------


def number(variable: str, default: int) -> int:
    return int(os.environ.get(f"STANDIN_{variable}", default))


def device_count() -> int:
    if number("CARDS", 4) < 0:
        raise CUDARuntimeError("cudaErrorInitializationError: initialization error")
    return len(visible())


def visible() -> list[int]:
    """The cards of the machine that this process sees, by their numbers there; CUDA counts them from 0 on."""
    cards = list(range(number("CARDS", 4)))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        cards
        if chosen is None
        else [card for card in map(int, filter(None, chosen.split(","))) if card in cards]
    )


def device_properties(device: int) -> dict[str, Any]:
    if not 0 <= device < device_count():
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    card = visible()[device]
    bus = {"pciDomainID": 0, "pciBusID": card, "pciDeviceID": 0}
    return {"name": b"stand-in", "uuid": bytes([card] * 16), **bus}


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    driverGetVersion=lambda: number("DRIVER", 12090),
    runtimeGetVersion=lambda: number("RUNTIME", 12090),
    getDeviceCount=device_count,
    getDeviceProperties=device_properties,
)


class Device:
    def __init__(self, device: int) -> None:
        self.number = device

    def use(self) -> None:
        device_properties(self.number)

    @property
    def mem_info(self) -> tuple[int, int]:
        return CAPACITY - pool.used, CAPACITY


class Stream:
    """Copies that go on behind Python, until somebody waits for them."""

    def __init__(self) -> None:
        self.copies: list[Callable[[], None]] = []  # to the host
        self.sent: list[tuple[Any, Any]] = []  # host buffers on their way to the card, and what was in them

    def synchronize(self) -> None:
        self.look_at_sent()
        copies, self.copies = self.copies, []
        for copy in copies:
            copy()

    def look_at_sent(self) -> None:
        sent, self.sent = self.sent, []
        if any(buffer.tobytes() != before.tobytes() for buffer, before in sent):
            raise AssertionError("a host buffer was written to while it was being copied to the card")


stream = Stream()


def get_current_stream() -> Stream:
    return stream
