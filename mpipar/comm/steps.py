"""What a transport can carry out: one small record a step, buffers as flat bytes, counts in bytes.

A collective is written once, as a generator of steps; it runs blocking or in the background as its
caller likes (see `handle.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from mpipar.errors import CommError

Buffer: TypeAlias = Any  # a flat view of an array's bytes, as the backend's `wire` makes it


@dataclass(frozen=True, slots=True)
class Allgatherv:
    send: Buffer
    recv: Buffer
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Alltoallv:
    send: Buffer
    send_counts: tuple[int, ...]
    recv: Buffer
    recv_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Broadcast:
    buffer: Buffer
    root: int


@dataclass(frozen=True, slots=True)
class Gatherv:
    send: Buffer
    recv: Buffer | None  # at the root only
    counts: tuple[int, ...]
    root: int


@dataclass(frozen=True, slots=True)
class Scatterv:
    send: Buffer | None  # at the root only
    recv: Buffer
    counts: tuple[int, ...]
    root: int


@dataclass(frozen=True, slots=True)
class Send:
    buffer: Buffer
    to: int
    tag: int


@dataclass(frozen=True, slots=True)
class Receive:
    buffer: Buffer
    source: int
    tag: int


@dataclass(frozen=True, slots=True)
class SendReceive:
    send: Buffer
    to: int
    recv: Buffer
    source: int
    tag: int


@dataclass(frozen=True, slots=True)
class Barrier:
    pass


Step: TypeAlias = (
    Allgatherv | Alltoallv | Broadcast | Gatherv | Scatterv | Send | Receive | SendReceive | Barrier
)


def check_length(came: int | str, buffer: Buffer, source: int) -> None:
    """Raises CommError where a message has not the length of its buffer: MPI fills a part and says nothing."""
    if came != len(buffer):
        raise CommError(f"recv from rank {source}: {came} bytes came, {len(buffer)} were expected")
