"""What a transport can carry out: one small record a step, buffers as flat bytes, counts in bytes.

A collective is written once, as a generator of steps; it runs blocking or in the background as its
caller likes (see `handle.py`). `reads` and `writes` name the fields whose memory MPI reads and fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from mpipar.errors import CommError

Buffer: TypeAlias = Any  # a flat view of an array's bytes, as the backend's `wire` makes it


@dataclass(frozen=True, slots=True)
class Allgatherv:
    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer
    recv: Buffer
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Alltoallv:
    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer
    send_counts: tuple[int, ...]
    recv: Buffer
    recv_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Broadcast:
    reads: ClassVar[tuple[str, ...]] = ("buffer",)
    writes: ClassVar[tuple[str, ...]] = ("buffer",)
    buffer: Buffer
    root: int


@dataclass(frozen=True, slots=True)
class Gatherv:
    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer
    recv: Buffer | None  # at the root only
    counts: tuple[int, ...]
    root: int


@dataclass(frozen=True, slots=True)
class Scatterv:
    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer | None  # at the root only
    recv: Buffer
    counts: tuple[int, ...]
    root: int


@dataclass(frozen=True, slots=True)
class Send:
    reads: ClassVar[tuple[str, ...]] = ("buffer",)
    writes: ClassVar[tuple[str, ...]] = ()
    buffer: Buffer
    to: int
    tag: int


@dataclass(frozen=True, slots=True)
class Receive:
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ("buffer",)
    buffer: Buffer
    source: int
    tag: int


@dataclass(frozen=True, slots=True)
class SendReceive:
    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer
    to: int
    recv: Buffer
    source: int
    tag: int


@dataclass(frozen=True, slots=True)
class Barrier:
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()


Step: TypeAlias = (
    Allgatherv | Alltoallv | Broadcast | Gatherv | Scatterv | Send | Receive | SendReceive | Barrier
)


def check_length(came: int | str, buffer: Buffer, source: int) -> None:
    """Raises CommError where a message has not the length of its buffer: MPI fills a part and says nothing."""
    if came != len(buffer):
        raise CommError(f"recv from rank {source}: {came} bytes came, {len(buffer)} were expected")
