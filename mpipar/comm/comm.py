"""Explicit collectives on arrays, over the ranks of one communicator.

Every method takes and returns local arrays of the communicator's backend and leaves its arguments as they are.
Pieces may be uneven and empty, arrays 0-d or non-contiguous. Sums are made in the order of the ranks, each
element on one rank or on all of them alike: **all ranks get the same bits, with every MPI** (MPI's own
reductions promise neither). 16-bit floats are added in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal, TypeAlias

from mpipar.backend import Array, Backend, DType, Shape
from mpipar.blocks import balanced, offsets
from mpipar.comm.handle import Handle, Queue, Steps, Transport, run_now
from mpipar.comm.ledger import Ledger, call_site
from mpipar.comm.steps import (
    Allgatherv,
    Alltoallv,
    Barrier,
    Broadcast,
    Gatherv,
    Receive,
    Scatterv,
    Send,
    SendReceive,
)
from mpipar.errors import CommError

Operation: TypeAlias = Literal["sum", "max", "min"]
SMALL = 64 * 1024  # bytes over all ranks up to which one allgather beats a reduce_scatter and an allgather


class Comm:
    """Ranks, a label (the mesh axis) and the collectives between them."""

    def __init__(self, transport: Transport, label: str, ledger: Ledger, xp: Backend) -> None:
        self.transport, self.label, self.ledger, self.xp = transport, label, ledger, xp
        self.rank, self.size = transport.rank, transport.size

    def __repr__(self) -> str:
        return f"Comm({self.label!r}, rank {self.rank} of {self.size})"

    # ---- reductions -------------------------------------------------------------------------------------

    def allreduce(self, x: Array, op: Operation = "sum") -> Array:
        """The sum (max, min) over the ranks, the same bits on each. `x` has one shape on all ranks."""
        return self._now("allreduce", self._nbytes(x), self._allreduce(x, op))

    def iallreduce(self, x: Array, op: Operation = "sum") -> Handle:
        """`allreduce` in the background. Those of large arrays end in the order in which they were started."""
        queue = None if self._is_small(x) else _queue(self.transport)
        return self._later("allreduce", self._nbytes(x), self._allreduce(x, op), queue)

    def reduce_scatter(
        self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None, op: Operation = "sum"
    ) -> Array:
        """My piece of the sum along `dim`; `sizes` (default: the block rule) are the lengths of the pieces."""
        dim, sizes = self._pieces(x.shape, dim, sizes)
        return self._now(
            "reduce_scatter", self._all_but_mine(x, dim, sizes), self._reduce_scatter(x, dim, sizes, op)
        )

    def ireduce_scatter(
        self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None, op: Operation = "sum"
    ) -> Handle:
        """`reduce_scatter` in the background."""
        dim, sizes = self._pieces(x.shape, dim, sizes)
        return self._later(
            "reduce_scatter", self._all_but_mine(x, dim, sizes), self._reduce_scatter(x, dim, sizes, op)
        )

    def reduce(self, x: Array, root: int = 0, op: Operation = "sum") -> Array | None:
        """The sum (max, min) on `root`, None elsewhere."""
        n_bytes = self._nbytes(x) if self.rank != root else 0
        return self._now("reduce", n_bytes, self._reduce(x, root, op))

    # ---- gathering and spreading ------------------------------------------------------------------------

    def allgather(self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None) -> Array:
        """The pieces of all ranks joined along `dim`. Without `sizes` the ranks first tell their lengths."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        return self._now("allgather", self._nbytes(x), self._allgather(x, dim, sizes))

    def iallgather(self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None) -> Handle:
        """`allgather` in the background."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        return self._later("allgather", self._nbytes(x), self._allgather(x, dim, sizes))

    def alltoall(
        self,
        x: Array,
        split: int,
        concat: int,
        split_sizes: Sequence[int] | None = None,
        concat_sizes: Sequence[int] | None = None,
    ) -> Array:
        """Cuts `x` along `split`, sends piece r to rank r, joins what comes along `concat`.

        `split_sizes` default to the block rule; `concat_sizes`, the lengths of the ranks' arrays along `concat`,
        are told first where they are not given.
        """
        split, split_sizes = self._pieces(x.shape, split, split_sizes)
        concat, concat_sizes = self._lengths(x.shape, concat, concat_sizes)
        if split == concat:
            raise ValueError(
                f"alltoall on {self.label!r}: split and concat are both dim {split}; name two dims"
            )
        n_bytes = self._all_but_mine(x, split, split_sizes)
        return self._now("alltoall", n_bytes, self._alltoall(x, split, concat, split_sizes, concat_sizes))

    def gather(
        self, x: Array, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Array | None:
        """`allgather` for one rank: the joined array on `root`, None elsewhere."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        n_bytes = self._nbytes(x) if self.rank != root else 0
        return self._now("gather", n_bytes, self._gather(x, root, dim, sizes))

    def scatter(
        self, x: Array | None, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Array:
        """My piece along `dim` of root's array; the others hand in None. Shape and dtype travel first."""
        shape, dtype = self.broadcast_object(None if x is None else (x.shape, str(x.dtype)), root)
        dim, sizes = self._pieces(shape, dim, sizes)
        n_bytes = self._all_but_mine(x, dim, sizes) if self.rank == root else 0
        return self._now("scatter", n_bytes, self._scatter(x, root, dim, sizes, shape, dtype))

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Root's array on every rank; the others hand in an array of that shape and dtype."""
        return self._now("broadcast", self._nbytes(x) if self.rank == root else 0, self._broadcast(x, root))

    def ibroadcast(self, x: Array, root: int = 0) -> Handle:
        """`broadcast` in the background."""
        n_bytes = self._nbytes(x) if self.rank == root else 0
        return self._later("broadcast", n_bytes, self._broadcast(x, root))

    # ---- messages ---------------------------------------------------------------------------------------

    def send(self, x: Array, to: int, tag: int = 0) -> None:
        """Sends `x` to the rank `to`, which receives an array of this shape and dtype."""
        self._now("send", self._nbytes(x), self._send(x, to, tag))

    def isend(self, x: Array, to: int, tag: int = 0) -> Handle:
        """`send` in the background; `x` must stay as it is until `wait` returns."""
        return self._later("send", self._nbytes(x), self._send(x, to, tag))

    def recv(self, shape: Shape, dtype: DType, source: int, tag: int = 0) -> Array:
        """The array that `source` sends; a message of another length raises CommError."""
        return self._now("recv", 0, self._recv(shape, dtype, source, tag))

    def irecv(self, shape: Shape, dtype: DType, source: int, tag: int = 0) -> Handle:
        """`recv` in the background."""
        return self._later("recv", 0, self._recv(shape, dtype, source, tag))

    def sendrecv(self, x: Array, to: int, source: int, shape: Shape | None = None, tag: int = 0) -> Array:
        """Sends `x` and receives an array of its dtype (and shape, unless given) without a deadlock."""
        return self._now("sendrecv", self._nbytes(x), self._sendrecv(x, to, source, shape, tag))

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self._now("barrier", 0, _barrier())

    def ibarrier(self) -> Handle:
        """A barrier to test for."""
        return self._later("barrier", 0, _barrier())

    # ---- Python objects, and communicators: control traffic, not in the ledger -----------------------------

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Root's Python object on every rank."""
        return self.transport.broadcast_object(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        """The Python objects of all ranks, in order."""
        return self.transport.allgather_object(value)

    def duplicate(self, label: str) -> Comm:
        """The same ranks with messages of their own; not in this ledger."""
        return Comm(self.transport.duplicate(), label, Ledger(), self.xp)

    def abort(self, code: int) -> None:
        """Ends the whole job now."""
        self.transport.abort(code)

    # ---- each collective as the steps that it takes --------------------------------------------------------

    def _allreduce(self, x: Array, op: Operation) -> Steps:
        combine = self._combine(x, op)
        if self._is_small(x):
            flat = self.xp.contiguous(x).reshape(-1)
            every = yield from self._allgather(flat, 0, (flat.size,) * self.size)
            return self._fold(every.reshape(self.size, -1), combine, x.dtype).reshape(x.shape)
        flat = self.xp.contiguous(x).reshape(-1)
        sizes = balanced(flat.size, self.size)
        mine = yield from self._reduce_scatter(flat, 0, sizes, op)
        return (yield from self._allgather(mine, 0, sizes)).reshape(x.shape)

    def _reduce_scatter(self, x: Array, dim: int, sizes: Sequence[int], op: Operation) -> Steps:
        xp, combine = self.xp, self._combine(x, op)
        shape = _with(x.shape, dim, sizes[self.rank])
        terms = xp.empty((self.size, *shape), x.dtype)
        send, counts = self._packed(x, dim, sizes)
        mine = terms.nbytes // self.size
        yield Alltoallv(xp.wire(send), counts, xp.wire(terms), (mine,) * self.size)
        return self._fold(terms, combine, x.dtype)

    def _reduce(self, x: Array, root: int, op: Operation) -> Steps:
        combine = self._combine(x, op)
        flat = self.xp.contiguous(x).reshape(-1)
        every = yield from self._gather(flat, root, 0, (flat.size,) * self.size)
        if self.rank != root:
            return None
        return self._fold(every.reshape(self.size, -1), combine, x.dtype).reshape(x.shape)

    def _allgather(self, x: Array, dim: int, sizes: Sequence[int]) -> Steps:
        send = self.xp.contiguous(x)
        joined, counts = self._room(x, dim, sizes)
        yield Allgatherv(self.xp.wire(send), self.xp.wire(joined), counts)
        return self._unpacked(joined, x.shape, dim, sizes)

    def _gather(self, x: Array, root: int, dim: int, sizes: Sequence[int]) -> Steps:
        send = self.xp.contiguous(x)
        joined, counts = self._room(x, dim, sizes)
        at_root = self.rank == root
        yield Gatherv(self.xp.wire(send), self.xp.wire(joined) if at_root else None, counts, root)
        return self._unpacked(joined, x.shape, dim, sizes) if at_root else None

    def _scatter(
        self, x: Array | None, root: int, dim: int, sizes: Sequence[int], shape: Shape, dtype: DType
    ) -> Steps:
        xp = self.xp
        mine = xp.empty(_with(shape, dim, sizes[self.rank]), dtype)
        send = None if x is None else xp.wire(self._packed(x, dim, sizes)[0])
        row = _row_bytes(shape, dim, mine.dtype.itemsize)
        yield Scatterv(send, xp.wire(mine), tuple(size * row for size in sizes), root)
        return mine

    def _alltoall(
        self, x: Array, split: int, concat: int, split_sizes: Sequence[int], concat_sizes: Sequence[int]
    ) -> Steps:
        xp = self.xp
        send, counts = self._packed(x, split, split_sizes)
        shapes = [
            _with(_with(x.shape, split, split_sizes[self.rank]), concat, length) for length in concat_sizes
        ]
        starts = offsets([_count(shape) for shape in shapes])
        recv = xp.empty((starts[-1],), x.dtype)
        lengths = tuple((stop - start) * x.dtype.itemsize for start, stop in pairwise(starts))
        yield Alltoallv(xp.wire(send), counts, xp.wire(recv), lengths)
        pieces = [recv[starts[r] : starts[r + 1]].reshape(shapes[r]) for r in range(self.size)]
        return xp.concatenate(pieces, concat)

    def _broadcast(self, x: Array, root: int) -> Steps:
        result = self.xp.copy(self.xp.contiguous(x))
        yield Broadcast(self.xp.wire(result), root)
        return result

    def _send(self, x: Array, to: int, tag: int) -> Steps:
        yield Send(self.xp.wire(self.xp.contiguous(x)), to, tag)

    def _recv(self, shape: Shape, dtype: DType, source: int, tag: int) -> Steps:
        result = self.xp.empty(shape, dtype)
        yield Receive(self.xp.wire(result), source, tag)
        return result

    def _sendrecv(self, x: Array, to: int, source: int, shape: Shape | None, tag: int) -> Steps:
        result = self.xp.empty(x.shape if shape is None else shape, x.dtype)
        yield SendReceive(self.xp.wire(self.xp.contiguous(x)), to, self.xp.wire(result), source, tag)
        return result

    # ---- helpers ----------------------------------------------------------------------------------------

    def _now(self, operation: str, n_bytes: int, steps: Steps) -> Any:
        begin = perf_counter()
        result = run_now(steps, self.transport)
        self.ledger.add(self.label, operation, n_bytes if self.size > 1 else 0, perf_counter() - begin)
        return result

    def _later(self, operation: str, n_bytes: int, steps: Steps, queue: Queue | None = None) -> Handle:
        sent, site = n_bytes if self.size > 1 else 0, call_site()

        def done(seconds: float) -> None:
            self.ledger.add(self.label, operation, sent, seconds, site)

        return Handle(steps, self.transport, done, queue)

    def _is_small(self, x: Array) -> bool:
        return int(x.nbytes) * self.size <= SMALL

    def _combine(self, x: Array, op: Operation) -> Callable[[Array, Array], Array]:
        if op == "sum" and str(x.dtype) == "bool":
            raise TypeError(
                f"allreduce of bool on {self.label!r}: write op='max' for any, op='min' for all, or cast first"
            )
        table: dict[str, Callable[[Array, Array], Array]] = {
            "sum": lambda a, b: a + b,
            "max": self.xp.maximum,
            "min": self.xp.minimum,
        }
        if op not in table:
            raise ValueError(f"op={op!r} is not known; write 'sum', 'max' or 'min'")
        return table[op]

    def _fold(self, terms: Array, combine: Callable[[Array, Array], Array], dtype: DType) -> Array:
        """The ranks' terms combined in the order of the ranks: (size, …) → (…)."""
        xp = self.xp
        total = reduce(combine, (xp.widen(terms[rank]) for rank in range(self.size)))
        return xp.cast(xp.as_array(total), dtype)

    def _pieces(self, shape: Shape, dim: int, sizes: Sequence[int] | None) -> tuple[int, tuple[int, ...]]:
        """The dim, counted from the front, and the lengths into which it is cut: given, or balanced."""
        dim = _from_front(dim, len(shape))
        if sizes is None:
            return dim, balanced(shape[dim], self.size)
        if len(sizes) != self.size or sum(sizes) != shape[dim] or min(sizes) < 0:
            raise ValueError(
                f"sizes {tuple(sizes)} on {self.label!r}: {self.size} pieces that sum to {shape[dim]} are wanted"
            )
        return dim, tuple(sizes)

    def _lengths(self, shape: Shape, dim: int, sizes: Sequence[int] | None) -> tuple[int, tuple[int, ...]]:
        """The dim, counted from the front, and the lengths of all ranks' pieces: given, or told by each."""
        dim = _from_front(dim, len(shape))
        if sizes is None:
            return dim, tuple(self.allgather_object(shape[dim]))
        if len(sizes) != self.size or sizes[self.rank] != shape[dim] or min(sizes) < 0:
            raise CommError(
                f"sizes {tuple(sizes)} on {self.label!r}: rank {self.rank} of {self.size} has a piece of {shape[dim]}"
            )
        return dim, tuple(sizes)

    def _packed(self, x: Array, dim: int, sizes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """The pieces along `dim` one after the other, and their lengths in bytes."""
        row = _row_bytes(x.shape, dim, x.dtype.itemsize)
        counts = tuple(size * row for size in sizes)
        if dim == 0 or _count(x.shape[:dim]) == 1:
            return self.xp.contiguous(x), counts
        starts = offsets(sizes)
        flat = [
            self.xp.contiguous(x[_along(dim, starts[r], starts[r + 1])]).reshape(-1) for r in range(self.size)
        ]
        return self.xp.concatenate(flat, 0), counts

    def _room(self, x: Array, dim: int, sizes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
        """A flat array for all pieces, and their lengths in bytes."""
        row = _row_bytes(x.shape, dim, x.dtype.itemsize)
        room = self.xp.empty((sum(sizes) * row // x.dtype.itemsize,), x.dtype)
        return room, tuple(size * row for size in sizes)

    def _unpacked(self, joined: Array, shape: Shape, dim: int, sizes: Sequence[int]) -> Array:
        """Pieces one after the other → joined along `dim`."""
        if dim == 0 or _count(shape[:dim]) == 1:
            return joined.reshape(_with(shape, dim, sum(sizes)))
        shapes = [_with(shape, dim, size) for size in sizes]
        starts = offsets([_count(piece) for piece in shapes])
        pieces = [joined[starts[r] : starts[r + 1]].reshape(shapes[r]) for r in range(self.size)]
        return self.xp.concatenate(pieces, dim)

    def _nbytes(self, x: Array) -> int:
        return int(x.nbytes)

    def _all_but_mine(self, x: Array, dim: int, sizes: Sequence[int]) -> int:
        return (sum(sizes) - sizes[self.rank]) * _row_bytes(x.shape, dim, x.dtype.itemsize)


@cache
def _queue(transport: Transport) -> Queue:
    """One for all that share the transport. Made when first asked for, by a call that is collective itself."""
    return Queue(transport.duplicate())


def _barrier() -> Steps:
    yield Barrier()


def _from_front(dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim {dim} of an array of {ndim} dims")
    return dim % ndim


def _count(shape: Sequence[int]) -> int:
    return reduce(lambda a, b: a * b, shape, 1)


def _row_bytes(shape: Shape, dim: int, itemsize: int) -> int:
    """The bytes of one row along `dim`."""
    return _count(shape[:dim]) * _count(shape[dim + 1 :]) * itemsize


def _with(shape: Shape, dim: int, length: int) -> Shape:
    return (*shape[:dim], length, *shape[dim + 1 :])


def _along(dim: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * dim, slice(start, stop))
