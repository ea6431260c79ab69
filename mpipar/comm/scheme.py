"""Each collective as the steps that it takes: arrays in, bytes on the way, arrays out.

A scheme knows its rank and how many there are; it communicates nothing. `Comm` runs the steps, at once or in
the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import prod
from typing import Literal, TypeAlias

from mpipar.backend import Array, Backend, DType, Shape
from mpipar.blocks import balanced, offsets
from mpipar.comm.handle import Exposed, Steps
from mpipar.comm.steps import (
    EXCHANGES,
    Allgatherv,
    Alltoallv,
    Barrier,
    Broadcast,
    Exchange,
    Fetch,
    Gatherv,
    Receive,
    Scatterv,
    Send,
    parts,
)

Operation: TypeAlias = Literal["sum", "max", "min"]
SMALL = 64 * 1024  # bytes over all ranks up to which one allgather beats a reduce_scatter and an allgather


@dataclass(frozen=True)
class Scheme:
    """The collectives of one rank of a communicator."""

    rank: int
    size: int
    label: str
    xp: Backend

    def allreduce(self, x: Array, op: Operation, out: Array | None = None) -> Steps:
        total = yield from self._allreduce(x, op)
        if out is None:
            return total
        self.xp.copy_into(out, total)
        return out

    def _allreduce(self, x: Array, op: Operation) -> Steps:
        combine = self.combine(x, op)
        if self.is_small(x):
            flat = self.xp.contiguous(x).reshape(-1)
            every = yield from self.allgather(flat, 0, (flat.size,) * self.size)
            return self._fold(every.reshape(self.size, -1), combine, x.dtype).reshape(x.shape)
        flat = self.xp.contiguous(x).reshape(-1)
        sizes = balanced(flat.size, self.size)
        mine = yield from self.reduce_scatter(flat, 0, sizes, op)
        return (yield from self.allgather(mine, 0, sizes)).reshape(x.shape)

    def reduce_scatter(
        self, x: Array, dim: int, sizes: Sequence[int], op: Operation, dtype: DType | None = None
    ) -> Steps:
        xp, combine = self.xp, self.combine(x, op)
        shape = with_length(x.shape, dim, sizes[self.rank])
        terms = xp.empty((self.size, *shape), x.dtype)
        send, counts = self._packed(x, dim, sizes)
        mine = terms.nbytes // self.size
        most = max(sum(counts), self.size * max(counts))
        yield Alltoallv(xp.wire(send), counts, xp.wire(terms), (mine,) * self.size, most)
        return self._fold(terms, combine, dtype or x.dtype)

    def reduce(self, x: Array, root: int, op: Operation) -> Steps:
        combine = self.combine(x, op)
        flat = self.xp.contiguous(x).reshape(-1)
        every = yield from self.gather(flat, root, 0, (flat.size,) * self.size)
        if self.rank != root:
            return None
        return self._fold(every.reshape(self.size, -1), combine, x.dtype).reshape(x.shape)

    def allgather(self, x: Array, dim: int, sizes: Sequence[int]) -> Steps:
        send = self.xp.contiguous(x)
        joined, counts = self._room(x, dim, sizes)
        yield Allgatherv(self.xp.wire(send), self.xp.wire(joined), counts)
        return self._unpacked(joined, x.shape, dim, sizes)

    def gather(self, x: Array, root: int, dim: int, sizes: Sequence[int]) -> Steps:
        send = self.xp.contiguous(x)
        joined, counts = self._room(x, dim, sizes)
        at_root = self.rank == root
        yield Gatherv(self.xp.wire(send), self.xp.wire(joined) if at_root else None, counts, root)
        return self._unpacked(joined, x.shape, dim, sizes) if at_root else None

    def scatter(
        self, x: Array | None, root: int, dim: int, sizes: Sequence[int], shape: Shape, dtype: DType
    ) -> Steps:
        xp = self.xp
        mine = xp.empty(with_length(shape, dim, sizes[self.rank]), dtype)
        send = None if x is None else xp.wire(self._packed(x, dim, sizes)[0])
        row = row_bytes(shape, dim, mine.dtype.itemsize)
        yield Scatterv(send, xp.wire(mine), tuple(size * row for size in sizes), root)
        return mine

    def alltoall(
        self, x: Array, split: int, concat: int, split_sizes: Sequence[int], concat_sizes: Sequence[int]
    ) -> Steps:
        xp = self.xp
        send, counts = self._packed(x, split, split_sizes)
        shapes = [
            with_length(with_length(x.shape, split, split_sizes[self.rank]), concat, length)
            for length in concat_sizes
        ]
        starts = offsets([prod(shape) for shape in shapes])
        recv = xp.empty((starts[-1],), x.dtype)
        lengths = tuple((stop - start) * x.dtype.itemsize for start, stop in pairwise(starts))
        row = row_bytes(with_length(x.shape, split, 1), concat, x.dtype.itemsize)
        most = row * max(sum(split_sizes) * max(concat_sizes), max(split_sizes) * sum(concat_sizes))
        yield Alltoallv(xp.wire(send), counts, xp.wire(recv), lengths, most)
        pieces = [recv[starts[r] : starts[r + 1]].reshape(shapes[r]) for r in range(self.size)]
        return xp.concatenate(pieces, concat)

    def broadcast(self, x: Array, root: int) -> Steps:
        xp = self.xp
        result = xp.copy(xp.contiguous(x)) if self.rank == root else xp.empty(x.shape, x.dtype)
        yield Broadcast(self.xp.wire(result), root)
        return result

    def send(self, x: Array, to: int, tag: int) -> Steps:
        yield Send(self.xp.wire(self.xp.contiguous(x)), to, tag)

    def recv(self, shape: Shape, dtype: DType, source: int, tag: int) -> Steps:
        result = self.xp.empty(shape, dtype)
        yield Receive(self.xp.wire(result), source, tag)
        return result

    def sendrecv(self, x: Array, to: int, source: int, shape: Shape, tag: int) -> Steps:
        came = yield from self.exchange({to: x}, {source: shape}, x.dtype, tag)
        return came[source]

    def exchange(
        self, sends: Mapping[int, Array], shapes: Mapping[int, Shape], dtype: DType, tag: int = EXCHANGES
    ) -> Steps:
        xp = self.xp
        flat = [xp.contiguous(x).reshape(-1) for x in sends.values()]
        send = xp.concatenate(flat, 0) if len(flat) > 1 else flat[0] if flat else xp.empty((0,), dtype)
        starts = offsets([prod(shape) for shape in shapes.values()])
        recv = xp.empty((starts[-1],), dtype)
        yield Exchange(
            xp.wire(send),
            parts([x.nbytes for x in flat], tuple(sends)),
            xp.wire(recv),
            parts([(stop - start) * recv.dtype.itemsize for start, stop in pairwise(starts)], tuple(shapes)),
            tag,
        )
        return {
            source: recv[start:stop].reshape(shape)
            for (source, shape), (start, stop) in zip(shapes.items(), pairwise(starts), strict=True)
        }

    def shift(self, sends: Mapping[int, Array], shapes: Mapping[int, Shape], dtype: DType) -> Steps:
        came = yield from self.exchange(sends, shapes, dtype)
        return next(iter(came.values()), None)

    def alltoallv(self, x: Array, send_sizes: Sequence[int], recv_sizes: Sequence[int]) -> Steps:
        xp = self.xp
        recv = xp.empty(with_length(x.shape, 0, sum(recv_sizes)), x.dtype)
        row = row_bytes(x.shape, 0, x.dtype.itemsize)
        there, here = (parts([size * row for size in sizes]) for sizes in (send_sizes, recv_sizes))
        yield Exchange(xp.wire(xp.contiguous(x)), there, xp.wire(recv), here, EXCHANGES)
        return recv

    def fetch(self, window: Exposed, source: int, shape: Shape, dtype: DType, first: int) -> Steps:
        result = self.xp.empty(shape, dtype)
        yield Fetch(self.xp.wire(result), window, source, first)
        return result

    def is_small(self, x: Array) -> bool:
        return int(x.nbytes) * self.size <= SMALL

    def combine(self, x: Array, op: Operation) -> Callable[[Array, Array], Array]:
        """What `op` is. Raises ValueError or TypeError where it is nothing for the dtype."""
        table: dict[str, Callable[[Array, Array], Array]] = {
            "sum": lambda a, b: a + b,
            "max": self.xp.maximum,
            "min": self.xp.minimum,
        }
        if op not in table:
            raise ValueError(f"op={op!r} is not known; write 'sum', 'max' or 'min'")
        if op == "sum" and str(x.dtype) == "bool":
            raise TypeError(
                f"a sum of bool on {self.label!r}: write op='max' for any, op='min' for all, or cast first"
            )
        if op != "sum" and str(x.dtype).startswith("complex"):
            raise TypeError(
                f"op={op!r} of {x.dtype} on {self.label!r}: complex numbers have no order; "
                "write op='sum', or reduce a real array made of them"
            )
        return table[op]

    def _fold(self, terms: Array, combine: Callable[[Array, Array], Array], dtype: DType) -> Array:
        """The ranks' terms combined in the order of the ranks: (size, …) → (…)."""
        xp = self.xp
        total = reduce(combine, (xp.widen(terms[rank]) for rank in range(self.size)))
        return xp.cast(xp.as_array(total), dtype)

    def _packed(self, x: Array, dim: int, sizes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """The pieces along `dim` one after the other, and their lengths in bytes."""
        row = row_bytes(x.shape, dim, x.dtype.itemsize)
        counts = tuple(size * row for size in sizes)
        if dim == 0 or prod(x.shape[:dim]) == 1:
            return self.xp.contiguous(x), counts
        starts = offsets(sizes)
        flat = [
            self.xp.contiguous(x[along(dim, starts[r], starts[r + 1])]).reshape(-1) for r in range(self.size)
        ]
        return self.xp.concatenate(flat, 0), counts

    def _room(self, x: Array, dim: int, sizes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """A flat array for all pieces, and their lengths in bytes."""
        row = row_bytes(x.shape, dim, x.dtype.itemsize)
        room = self.xp.empty((sum(sizes) * row // x.dtype.itemsize,), x.dtype)
        return room, tuple(size * row for size in sizes)

    def _unpacked(self, joined: Array, shape: Shape, dim: int, sizes: Sequence[int]) -> Array:
        """Pieces one after the other → joined along `dim`."""
        if dim == 0 or prod(shape[:dim]) == 1:
            return joined.reshape(with_length(shape, dim, sum(sizes)))
        shapes = [with_length(shape, dim, size) for size in sizes]
        starts = offsets([prod(piece) for piece in shapes])
        pieces = [joined[starts[r] : starts[r + 1]].reshape(shapes[r]) for r in range(self.size)]
        return self.xp.concatenate(pieces, dim)


def barrier() -> Steps:
    yield Barrier()


def row_bytes(shape: Shape, dim: int, itemsize: int) -> int:
    """The bytes of one row along `dim`."""
    return prod(shape[:dim]) * prod(shape[dim + 1 :]) * itemsize


def with_length(shape: Shape, dim: int, length: int) -> Shape:
    return (*shape[:dim], length, *shape[dim + 1 :])


def along(dim: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * dim, slice(start, stop))
