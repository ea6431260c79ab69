"""Collectives of the ranks of one machine through memory that they share (`backend.numpy.arena`).

A rank tells where its array lies and where its result is to lie. Then each combines its piece of all arrays and writes
it into all results, or its own piece into all results: every byte is read once and written where it is needed. The
terms are added in the order of the ranks, so the bits are those of the collectives over MPI. An array that lies
elsewhere is copied first. MPI carries what is told, and the barrier after which nobody reads or writes any more.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

from mpipar.backend import Arena, Array, Shape
from mpipar.blocks import balanced, offsets
from mpipar.comm.handle import Steps, Transport
from mpipar.comm.scheme import Operation, Scheme, along, with_length
from mpipar.comm.steps import Allgatherv, Barrier, Step
from mpipar.errors import CommError, UsageError

VARIABLE = "MPIPAR_SHARED_MEMORY"
RECORD, CHECK = Struct("<qqI160s"), Struct("<I")
LENGTH = RECORD.size + CHECK.size


class Told(NamedTuple):
    """Where in a rank's memory its array and its result begin; -1 where it has no room."""

    source: int
    result: int


def join(transport: Transport, arena: Arena | None) -> dict[int, Any]:
    """The memories of the ranks of this machine, by rank; empty where any of them cannot be had. Collective.

    MPI says which ranks are of this machine. All ranks of a machine get the same answer.
    """
    here = transport.machine()
    place = arena.open(len(here)) if arena is not None and wanted() and len(here) > 1 else None
    places = transport.allgather_object(place)
    found = {rank: arena.attach(places[rank]) for rank in here if arena and places[rank] is not None}
    complete = len(found) == len(here) and all(memory is not None for memory in found.values())
    told = transport.allgather_object(complete)
    return found if all(told[rank] for rank in here) else {}


def wanted() -> bool:
    """Raises UsageError where the variable is neither 0 nor 1."""
    said = os.environ.get(VARIABLE, "")
    if said not in ("", "0", "1"):
        raise UsageError(
            f"{VARIABLE}={said!r}: write 0 (collectives within a machine go through MPI alone), 1, or unset it"
        )
    return said != "0"


def among(scheme: Scheme, transport: Transport) -> Shared | None:
    """The way through memory, where all ranks are of one machine and their arrays are the CPU's."""
    arena = scheme.xp.arena
    if arena is None or scheme.size == 1 or len(transport.memories) < scheme.size:
        return None
    return Shared(scheme, arena, transport.memories)


@dataclass(frozen=True)
class Shared:
    """Collectives of one rank. Where one of the ranks has no room all of them take the `scheme` over MPI."""

    scheme: Scheme
    arena: Arena
    memories: Mapping[int, Any]

    @property
    def rank(self) -> int:
        return self.scheme.rank

    def pays(self, n_bytes: int) -> bool:
        """Many ranks have much to tell, and little pieces."""
        return n_bytes >= self.arena.least * max(1, self.scheme.size // 4)

    def allreduce(self, x: Array, op: Operation, out: Array | None = None) -> Steps:
        self.scheme.combine(x, op)
        arena = self.arena
        flat = self.scheme.xp.contiguous(x).reshape(-1)
        first, last = self._mine(balanced(flat.size, self.scheme.size))
        source, staged = self._readable(flat, 0, first, last)
        result = out if self._may_take(out, source, x.nbytes) else arena.empty(x.shape, x.dtype)
        told = yield from self._tell(
            described("allreduce", op, x.shape, x.dtype), source, self._start(result)
        )
        if told is None:
            return (yield from self.scheme.allreduce(x, op, out))
        arrays = self._views([each.source for each in told], flat.shape, flat)
        if staged is not None:
            arrays[self.rank] = flat
        terms = [term[first:last].reshape(1, -1) for term in arrays]
        results = self._views([each.result for each in told], flat.shape, flat)
        outs = [
            term if each.source == each.result else target[first:last].reshape(1, -1)
            for each, term, target in zip(told, terms, results, strict=True)
        ]
        arena.fold(outs, terms, op)
        yield Barrier()
        if out is not None and result is not out:
            self.scheme.xp.copy_into(out, result)
            return out
        return result

    def reduce_scatter(self, x: Array, dim: int, sizes: Sequence[int], op: Operation) -> Steps:
        self.scheme.combine(x, op)
        first, last = self._mine(sizes)
        source, staged = self._readable(x, dim, first, last)
        what = described("reduce_scatter", op, x.shape, x.dtype, dim, tuple(sizes))
        told = yield from self._tell(what, source, 0)
        if told is None:
            return (yield from self.scheme.reduce_scatter(x, dim, sizes, op))
        arrays = self._views([each.source for each in told], x.shape, x)
        if staged is not None:
            arrays[self.rank] = x
        out = self.scheme.xp.empty(with_length(x.shape, dim, last - first), x.dtype)
        terms = [rows(array[along(dim, first, last)], dim) for array in arrays]
        self.arena.fold([rows(out, dim)], terms, op)
        yield Barrier()
        return out

    def allgather(self, x: Array, dim: int, sizes: Sequence[int]) -> Steps:
        first, last = self._mine(sizes)
        shape = with_length(x.shape, dim, sum(sizes))
        result = self.arena.empty(shape, x.dtype)
        what = described("allgather", "", shape, x.dtype, dim, tuple(sizes))
        told = yield from self._tell(what, 0, self._start(result))
        if told is None:
            return (yield from self.scheme.allgather(x, dim, sizes))
        for target in self._views([each.result for each in told], shape, x):
            self.scheme.xp.copy_into(target[along(dim, first, last)], x)
        yield Barrier()
        return result

    def _mine(self, sizes: Sequence[int]) -> tuple[int, int]:
        starts = offsets(sizes)
        return starts[self.rank], starts[self.rank + 1]

    def _start(self, x: Array | None) -> int:
        return -1 if x is None else self.arena.start(x)

    def _readable(self, x: Array, dim: int, first: int, last: int) -> tuple[int, Array | None]:
        """Where the others find `x`; and the copy of what they read of it, all but my piece, if it had to be made."""
        start = self.arena.start(x)
        staged = self.arena.empty(x.shape, x.dtype) if start < 0 else None
        if staged is None:
            return start, None
        for part in (along(dim, 0, first), along(dim, last, x.shape[dim])):
            self.scheme.xp.copy_into(staged[part], x[part])
        return self.arena.start(staged), staged

    def _may_take(self, out: Array | None, source: int, n_bytes: int) -> bool:
        """Whether the others may write into `out` while they read what begins at `source`."""
        start = self._start(out)
        return start >= 0 and (start == source or abs(start - source) >= n_bytes)

    def _views(self, starts: Sequence[int], shape: Shape, like: Array) -> list[Array]:
        """The arrays of that shape that begin there, one in the memory of each rank."""
        return [
            self.arena.view(self.memories[rank], start, shape, like.dtype)
            for rank, start in enumerate(starts)
        ]

    def _tell(self, what: bytes, source: int, result: int) -> Generator[Step, None, list[Told] | None]:
        """Where all ranks have their arrays; None where one has no room. Raises CommError where they do not fit."""
        mine = RECORD.pack(source, result, crc32(what), what)
        size = self.scheme.size
        every = memoryview(bytearray(LENGTH * size))
        yield Allgatherv(mine + CHECK.pack(crc32(mine)), every, (LENGTH,) * size)
        told = []
        for rank in range(size):
            record = every[rank * LENGTH : (rank + 1) * LENGTH]
            its_source, its_result, digest, its_what = RECORD.unpack(record[: RECORD.size])
            if CHECK.unpack(record[RECORD.size :]) != (crc32(record[: RECORD.size]),):
                raise self._misfit(what, rank, b"another collective, or an array of another size")
            if digest != crc32(what):
                raise self._misfit(what, rank, its_what.rstrip(b"\0"))
            told.append(Told(its_source, its_result))
        return None if min(chain(*told)) < 0 else told

    def _misfit(self, mine: bytes, rank: int, its: bytes) -> CommError:
        return CommError(
            f"the arrays on {self.scheme.label!r} do not fit: rank {self.rank} has {mine.decode()}, "
            f"rank {rank} has {its.decode()}"
        )


@lru_cache(maxsize=1024)
def described(operation: str, op: str, shape: Shape, dtype: Any, *cut: Any) -> bytes:
    """The call in words, the same on all ranks."""
    along_dim = f" along dim {cut[0]}, sizes {cut[1]}" if cut else ""
    return f"{operation} {op and f'({op}) '}of {dtype} {shape}{along_dim}".encode()


def rows(x: Array, dim: int) -> Array:
    """As (R, K): the dims before `dim`, and the rest, which lies together."""
    count = prod(x.shape[:dim])
    return x.reshape(count, x.size // max(1, count))
