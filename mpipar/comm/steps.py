"""What a transport can carry out: one small record a step, buffers as flat bytes, counts in bytes.

A collective is written once, as a generator of steps; it runs blocking or in the background as its
caller likes (see `handle.py`). `reads` and `writes` name the fields whose memory MPI reads and fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeAlias

from mpipar.blocks import offsets
from mpipar.errors import CommError

Buffer: TypeAlias = Any  # a flat view of an array's bytes, as the backend's `wire` makes it

LAST_TAG = 32_765  # of the user's messages; every MPI has tags up to 32,767
EXCHANGES, LARGE = 32_766, 32_767  # the tags of exchanges, and of large collectives that travel as messages


class Part(NamedTuple):
    """The bytes from `start` to `stop` of a buffer: a message to or from `rank`."""

    rank: int
    start: int
    stop: int


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
    most: int  # bytes of the longest of all these buffers of all ranks: the same number on each


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
class Exchange:
    """Messages to and from any ranks, all under way at once: no order of the ranks can deadlock."""

    reads: ClassVar[tuple[str, ...]] = ("send",)
    writes: ClassVar[tuple[str, ...]] = ("recv",)
    send: Buffer | None  # None: nothing
    sends: tuple[Part, ...]
    recv: Buffer | None
    receives: tuple[Part, ...]
    tag: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Reads the bytes of a rank's exposed buffer from `start` on; that rank takes no step."""

    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ("buffer",)
    buffer: Buffer
    window: Any  # what the transport's `expose` returned
    source: int
    start: int


@dataclass(frozen=True, slots=True)
class Barrier:
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()


Step: TypeAlias = (
    Allgatherv | Alltoallv | Broadcast | Gatherv | Scatterv | Send | Receive | Exchange | Fetch | Barrier
)


def parts(counts: Sequence[int], ranks: Sequence[int] | None = None) -> tuple[Part, ...]:
    """The consecutive pieces of a buffer, one for each rank (of `ranks`)."""
    ranks = range(len(counts)) if ranks is None else ranks
    pieces = zip(ranks, pairwise(offsets(counts)), strict=True)
    return tuple(Part(rank, start, stop) for rank, (start, stop) in pieces)


def check_length(came: int | str, buffer: Buffer, source: int) -> None:
    """Raises CommError where a message has not the length of its buffer: MPI fills a part and says nothing."""
    if came != len(buffer):
        raise CommError(f"recv from rank {source}: {came} bytes came, {len(buffer)} were expected")
