"""Explicit collectives on arrays, over the ranks of one communicator.

Every method takes and returns local arrays of the communicator's backend and leaves its arguments as they are.
Pieces may be uneven and empty, arrays 0-d or non-contiguous. Sums are made in the order of the ranks, each
element on one rank or on all of them alike: **all ranks get the same bits, with every MPI** (MPI's own
reductions promise neither). 16-bit floats are added in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from time import perf_counter
from typing import Any

from mpipar.backend import Array, Backend, DType, Shape
from mpipar.blocks import balanced
from mpipar.comm.handle import Handle, Queue, Steps, Transport, run_now
from mpipar.comm.ledger import Ledger, call_site
from mpipar.comm.scheme import Operation, Scheme, barrier, row_bytes
from mpipar.errors import CommError


class Comm:
    """Ranks, a label (the mesh axis) and the collectives between them."""

    def __init__(self, transport: Transport, label: str, ledger: Ledger, xp: Backend) -> None:
        self.transport, self.label, self.ledger, self.xp = transport, label, ledger, xp
        self.rank, self.size = transport.rank, transport.size
        self._scheme = Scheme(self.rank, self.size, label, xp)

    def __repr__(self) -> str:
        return f"Comm({self.label!r}, rank {self.rank} of {self.size})"

    # ---- reductions -------------------------------------------------------------------------------------

    def allreduce(self, x: Array, op: Operation = "sum") -> Array:
        """The sum (max, min) over the ranks, the same bits on each. `x` has one shape on all ranks."""
        return self._now("allreduce", self._nbytes(x), self._scheme.allreduce(x, op))

    def iallreduce(self, x: Array, op: Operation = "sum") -> Handle:
        """`allreduce` in the background. Those of large arrays end in the order in which they were started."""
        queue = None if self._scheme.is_small(x) else _queue(self.transport)
        return self._later("allreduce", self._nbytes(x), self._scheme.allreduce(x, op), queue)

    def reduce_scatter(
        self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None, op: Operation = "sum"
    ) -> Array:
        """My piece of the sum along `dim`; `sizes` (default: the block rule) are the lengths of the pieces."""
        dim, sizes = self._pieces(x.shape, dim, sizes)
        return self._now(
            "reduce_scatter",
            self._all_but_mine(x, dim, sizes),
            self._scheme.reduce_scatter(x, dim, sizes, op),
        )

    def ireduce_scatter(
        self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None, op: Operation = "sum"
    ) -> Handle:
        """`reduce_scatter` in the background."""
        dim, sizes = self._pieces(x.shape, dim, sizes)
        return self._later(
            "reduce_scatter",
            self._all_but_mine(x, dim, sizes),
            self._scheme.reduce_scatter(x, dim, sizes, op),
        )

    def reduce(self, x: Array, root: int = 0, op: Operation = "sum") -> Array | None:
        """The sum (max, min) on `root`, None elsewhere."""
        n_bytes = self._nbytes(x) if self.rank != root else 0
        return self._now("reduce", n_bytes, self._scheme.reduce(x, root, op))

    # ---- gathering and spreading ------------------------------------------------------------------------

    def allgather(self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None) -> Array:
        """The pieces of all ranks joined along `dim`. Without `sizes` the ranks first tell their lengths."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        return self._now("allgather", self._nbytes(x), self._scheme.allgather(x, dim, sizes))

    def iallgather(self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None) -> Handle:
        """`allgather` in the background."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        return self._later("allgather", self._nbytes(x), self._scheme.allgather(x, dim, sizes))

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
        return self._now(
            "alltoall", n_bytes, self._scheme.alltoall(x, split, concat, split_sizes, concat_sizes)
        )

    def gather(
        self, x: Array, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Array | None:
        """`allgather` for one rank: the joined array on `root`, None elsewhere."""
        dim, sizes = self._lengths(x.shape, dim, sizes)
        n_bytes = self._nbytes(x) if self.rank != root else 0
        return self._now("gather", n_bytes, self._scheme.gather(x, root, dim, sizes))

    def scatter(
        self, x: Array | None, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Array:
        """My piece along `dim` of root's array; the others hand in None. Shape and dtype travel first."""
        shape, dtype = self.broadcast_object(None if x is None else (x.shape, str(x.dtype)), root)
        dim, sizes = self._pieces(shape, dim, sizes)
        n_bytes = self._all_but_mine(x, dim, sizes) if self.rank == root else 0
        return self._now("scatter", n_bytes, self._scheme.scatter(x, root, dim, sizes, shape, dtype))

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Root's array on every rank; the others hand in an array of that shape and dtype."""
        return self._now(
            "broadcast", self._nbytes(x) if self.rank == root else 0, self._scheme.broadcast(x, root)
        )

    def ibroadcast(self, x: Array, root: int = 0) -> Handle:
        """`broadcast` in the background."""
        n_bytes = self._nbytes(x) if self.rank == root else 0
        return self._later("broadcast", n_bytes, self._scheme.broadcast(x, root))

    # ---- messages ---------------------------------------------------------------------------------------

    def send(self, x: Array, to: int, tag: int = 0) -> None:
        """Sends `x` to the rank `to`, which receives an array of this shape and dtype."""
        self._now("send", self._nbytes(x), self._scheme.send(x, to, tag))

    def isend(self, x: Array, to: int, tag: int = 0) -> Handle:
        """`send` in the background; `x` must stay as it is until `wait` returns."""
        return self._later("send", self._nbytes(x), self._scheme.send(x, to, tag))

    def recv(self, shape: Shape, dtype: DType, source: int, tag: int = 0) -> Array:
        """The array that `source` sends; a message of another length raises CommError."""
        return self._now("recv", 0, self._scheme.recv(shape, dtype, source, tag))

    def irecv(self, shape: Shape, dtype: DType, source: int, tag: int = 0) -> Handle:
        """`recv` in the background."""
        return self._later("recv", 0, self._scheme.recv(shape, dtype, source, tag))

    def sendrecv(self, x: Array, to: int, source: int, shape: Shape | None = None, tag: int = 0) -> Array:
        """Sends `x` and receives an array of its dtype (and shape, unless given) without a deadlock."""
        return self._now("sendrecv", self._nbytes(x), self._scheme.sendrecv(x, to, source, shape, tag))

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        self._now("barrier", 0, barrier())

    def ibarrier(self) -> Handle:
        """A barrier to test for."""
        return self._later("barrier", 0, barrier())

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

    def _nbytes(self, x: Array) -> int:
        return int(x.nbytes)

    def _all_but_mine(self, x: Array, dim: int, sizes: Sequence[int]) -> int:
        return (sum(sizes) - sizes[self.rank]) * row_bytes(x.shape, dim, x.dtype.itemsize)


@cache
def _queue(transport: Transport) -> Queue:
    """One for all that share the transport. Made when first asked for, by a call that is collective itself."""
    return Queue(transport.duplicate())


def _from_front(dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim {dim} of an array of {ndim} dims")
    return dim % ndim
