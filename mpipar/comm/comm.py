"""Explicit collectives on arrays, over the ranks of one communicator.

Every method takes and returns local arrays of the communicator's backend and leaves its arguments as they are.
Pieces may be uneven and empty, arrays 0-d, non-contiguous, of any dtype and length. Sums are made in the order of the
ranks, each element on one rank or on all of them alike: **all ranks get the same bits, with every MPI** (MPI's own
reductions promise neither). 16-bit floats are added in float32. `docs/collectives.md` shows each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from time import perf_counter
from typing import Any

from mpipar.backend import Array, Backend, DType, Shape
from mpipar.comm import arguments, shared
from mpipar.comm.handle import Handle, Queue, Transport, run_now
from mpipar.comm.ledger import Ledger, call_site
from mpipar.comm.plan import Plan, background, collective
from mpipar.comm.scheme import Operation, Scheme, barrier, row_bytes
from mpipar.comm.shared import Shared
from mpipar.comm.window import Window

ONE_STEP = 8  # over MPI an allreduce takes two steps; what takes one must be so much larger for memory to pay


class Comm:
    """Ranks, a label (the mesh axis) and the collectives between them.

    Each is written once, as a plan. `allreduce` runs it; `iallreduce` starts it and returns a handle, whose `wait`
    returns the result. Ranks start collectives in one order, those in the background among them. Lengths that are
    told first are told at the start, which waits for all ranks.
    """

    def __init__(self, transport: Transport, label: str, ledger: Ledger, xp: Backend) -> None:
        self.transport, self.label, self.ledger, self.xp = transport, label, ledger, xp
        self.rank, self.size = transport.rank, transport.size
        self._scheme = Scheme(self.rank, self.size, label, xp)
        self.shared = shared.among(self._scheme, transport)

    def __repr__(self) -> str:
        return f"Comm({self.label!r}, rank {self.rank} of {self.size})"

    # ---- reductions -------------------------------------------------------------------------------------

    @collective
    def allreduce(self, x: Array, op: Operation = "sum", out: Array | None = None) -> Plan[Array]:
        """The sum (max, min) over the ranks, the same bits on each. `x` has one shape on all ranks.

        Into `out`, which may be `x` itself, where it is given: then that is what comes back.
        """
        arguments.fits(self, x, out)
        way = self._way(x.nbytes)
        several = way is not self._scheme or not self._scheme.is_small(x)
        return Plan("allreduce", x.nbytes, way.allreduce(x, op, out), several)

    @collective
    def reduce_scatter(
        self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None, op: Operation = "sum",
        dtype: DType | None = None,
    ) -> Plan[Array]:  # fmt: skip
        """My piece of the sum along `dim`; `sizes` (default: the block rule) are the lengths of the pieces.

        `dtype`: of the sum, where it is not that of `x`: terms of 16 bits on the way, their sum in float32.
        """
        dim, sizes = arguments.pieces(self, x.shape, dim, sizes)
        way = (
            self._scheme if dtype else self._way(x.nbytes // ONE_STEP)
        )  # there a sum has the dtype of its terms
        told = {"dtype": dtype} if dtype else {}
        steps = way.reduce_scatter(x, dim, sizes, op, **told)
        return Plan("reduce_scatter", self._all_but_mine(x, dim, sizes), steps, way is not self._scheme)

    @collective
    def reduce(self, x: Array, root: int = 0, op: Operation = "sum") -> Plan[Array | None]:
        """The sum (max, min) on `root`, None elsewhere."""
        steps = self._scheme.reduce(x, arguments.rank_of(self, root, "root"), op)
        return Plan("reduce", 0 if self.rank == root else x.nbytes, steps)

    # ---- gathering and spreading ------------------------------------------------------------------------

    @collective
    def allgather(self, x: Array, dim: int = 0, sizes: Sequence[int] | None = None) -> Plan[Array]:
        """The pieces of all ranks joined along `dim`. Without `sizes` the ranks first tell their lengths."""
        dim, sizes = arguments.lengths(self, x, dim, sizes)
        way = self._way(sum(sizes) * row_bytes(x.shape, dim, x.dtype.itemsize) // ONE_STEP)
        return Plan("allgather", x.nbytes, way.allgather(x, dim, sizes), way is not self._scheme)

    @collective
    def gather(
        self, x: Array, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Plan[Array | None]:
        """`allgather` for one rank: the joined array on `root`, None elsewhere."""
        arguments.rank_of(self, root, "root")
        dim, sizes = arguments.lengths(self, x, dim, sizes)
        return Plan("gather", 0 if self.rank == root else x.nbytes, self._scheme.gather(x, root, dim, sizes))

    @collective
    def scatter(
        self, x: Array | None, root: int = 0, dim: int = 0, sizes: Sequence[int] | None = None
    ) -> Plan[Array]:
        """My piece along `dim` of root's array; the others hand in None. Shape and dtype travel first."""
        arguments.rank_of(self, root, "root")
        told = self.broadcast_object(None if x is None else (x.shape, str(x.dtype)), root)
        shape, dtype = arguments.of_root(self, told, root)
        dim, sizes = arguments.pieces(self, shape, dim, sizes)
        n_bytes = self._all_but_mine(x, dim, sizes) if self.rank == root else 0
        there = x if self.rank == root else None
        return Plan("scatter", n_bytes, self._scheme.scatter(there, root, dim, sizes, shape, dtype))

    @collective
    def broadcast(self, x: Array, root: int = 0) -> Plan[Array]:
        """Root's array on every rank; the others hand in an array of that shape and dtype."""
        arguments.rank_of(self, root, "root")
        return Plan("broadcast", x.nbytes if self.rank == root else 0, self._scheme.broadcast(x, root))

    @collective
    def alltoall(
        self,
        x: Array,
        split: int,
        concat: int,
        split_sizes: Sequence[int] | None = None,
        concat_sizes: Sequence[int] | None = None,
    ) -> Plan[Array]:
        """Cuts `x` along `split`, sends piece r to rank r, joins what comes along `concat`.

        `split_sizes` default to the block rule; `concat_sizes`, the lengths of the ranks' arrays along `concat`,
        are told first where they are not given.
        """
        split, split_sizes = arguments.pieces(self, x.shape, split, split_sizes)
        if split == arguments.from_front(concat, x.ndim):
            raise ValueError(
                f"alltoall on {self.label!r}: split and concat are both dim {split}; "
                "name two dims, or exchange rows with alltoallv"
            )
        concat, concat_sizes = arguments.lengths(self, x, concat, concat_sizes)
        steps = self._scheme.alltoall(x, split, concat, split_sizes, concat_sizes)
        return Plan("alltoall", self._all_but_mine(x, split, split_sizes), steps)

    @collective
    def alltoallv(
        self, x: Array, send_sizes: Sequence[int], recv_sizes: Sequence[int] | None = None
    ) -> Plan[Array]:
        """Rows (dim 0) to any ranks: the first ``send_sizes[0]`` rows to rank 0, and so on.

        Returns the rows that came, in the order of the ranks: ``recv_sizes[r]`` of rank r, which are told first where
        they are not given (`alltoall_sizes` tells them, too). Other numbers than were sent raise CommError.
        """
        send_sizes = arguments.counts(
            self, send_sizes, "send_sizes", x.shape[arguments.from_front(0, x.ndim)]
        )
        if recv_sizes is None:
            told = self.allgather_object(((x.shape, str(x.dtype)), send_sizes))
            arguments.alike(
                self, [(shape[1:], dtype) for (shape, dtype), _ in told], [its for its, _ in told]
            )
            recv_sizes = [sizes[self.rank] for _, sizes in told]
        recv_sizes = arguments.counts(self, recv_sizes, "recv_sizes")
        steps = self._scheme.alltoallv(x, send_sizes, recv_sizes)
        return Plan("alltoallv", self._all_but_mine(x, 0, send_sizes), steps)

    # ---- messages ---------------------------------------------------------------------------------------

    @collective
    def send(self, x: Array, to: int, tag: int = 0) -> Plan[None]:
        """Sends `x` to the rank `to`, which receives an array of this shape and dtype.

        In the background `x` must stay as it is until `wait` returns.
        """
        arguments.rank_of(self, to, "to")
        return Plan("send", x.nbytes, self._scheme.send(x, to, arguments.tag_of(tag)))

    @collective
    def recv(self, shape: Shape, dtype: DType, source: int, tag: int = 0) -> Plan[Array]:
        """The array that `source` sends; a message of another length raises CommError."""
        arguments.rank_of(self, source, "source")
        return Plan("recv", 0, self._scheme.recv(shape, dtype, source, arguments.tag_of(tag)))

    @collective
    def sendrecv(
        self, x: Array, to: int, source: int, shape: Shape | None = None, tag: int = 0
    ) -> Plan[Array]:
        """Sends `x` and receives an array of its dtype (and shape, unless given) without a deadlock."""
        arguments.rank_of(self, to, "to")
        arguments.rank_of(self, source, "source")
        shape = x.shape if shape is None else shape
        steps = self._scheme.sendrecv(x, to, source, shape, arguments.tag_of(tag))
        return Plan("sendrecv", self._to_others({to: x}), steps)

    @collective
    def exchange(
        self,
        sends: Mapping[int, Array],
        shapes: Mapping[int, Shape] | None = None,
        dtype: DType | None = None,
    ) -> Plan[dict[int, Array]]:
        """One array to each rank of `sends`, one from each rank of `shapes`; returns these by rank.

        All messages are of one dtype, which a rank that sends nothing names. Only ranks with neighbours take part.
        Without `shapes` all ranks call, and first tell what they send. All messages are under way at once:
        nothing deadlocks. A message of another length raises CommError.
        """
        if shapes is None:
            shapes, dtype = arguments.told_shapes(self, sends, dtype)
        for rank in (*sends, *shapes):
            arguments.rank_of(self, rank, "a neighbour")
        dtype = arguments.one_dtype(self, list(sends.values()), dtype, needed=bool(shapes))
        return Plan("exchange", self._to_others(sends), self._scheme.exchange(sends, shapes, dtype))

    @collective
    def shift(
        self, x: Array, by: int = 1, periodic: bool = False, shape: Shape | None = None
    ) -> Plan[Array | None]:
        """Sends `x` to the rank `by` places further on, and returns what comes from `by` places before.

        At the ends of the axis nothing is sent and None comes, unless it is `periodic`: a ring. What comes has the
        dtype of `x`, and its shape unless given. Halos are a shift by 1 and one by -1.
        """
        to, source = self.rank + by, self.rank - by
        if periodic:
            to, source = to % self.size, source % self.size
        sends = {to: x} if 0 <= to < self.size else {}
        shapes = {source: x.shape if shape is None else shape} if 0 <= source < self.size else {}
        return Plan("shift", self._to_others(sends), self._scheme.shift(sends, shapes, x.dtype))

    @collective
    def barrier(self) -> Plan[None]:
        """Returns when every rank has come here."""
        return Plan("barrier", 0, barrier())

    # ---- one-sided --------------------------------------------------------------------------------------

    def expose(self, x: Array) -> Window:
        """Opens `x` to the other ranks: ``with comm.expose(x) as window: rows = window.fetch(rank, 3, 7)``.

        All ranks call, with arrays of any shapes and dtypes. `x` must stay as it is inside the block, which ends when
        all ranks have come to its end.
        """
        return Window(self, x)

    # ---- in the background ------------------------------------------------------------------------------

    iallreduce, ireduce_scatter, ireduce = (
        background(allreduce),
        background(reduce_scatter),
        background(reduce),
    )
    iallgather, igather, iscatter = background(allgather), background(gather), background(scatter)
    ibroadcast, ialltoall, ialltoallv = background(broadcast), background(alltoall), background(alltoallv)
    isend, irecv, isendrecv = background(send), background(recv), background(sendrecv)
    iexchange, ishift, ibarrier = background(exchange), background(shift), background(barrier)

    # ---- Python objects, and communicators: control traffic, not in the ledger -----------------------------

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Root's Python object on every rank."""
        return self.transport.broadcast_object(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        """The Python objects of all ranks, in order."""
        return self.transport.allgather_object(value)

    def alltoall_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """What the others have for me where `sizes` is what I have for them: the `recv_sizes` of `alltoallv`."""
        told = self.allgather_object(arguments.counts(self, sizes, "sizes"))
        return tuple(its[self.rank] for its in told)

    def duplicate(self, label: str) -> Comm:
        """The same ranks with messages of their own; not in this ledger."""
        return Comm(self.transport.duplicate(), label, Ledger(), self.xp)

    def prepared(self) -> Comm:
        """This one, when all ranks have made what the first collective in the background makes. All ranks call."""
        _queue(self.transport)
        return self

    def abort(self, code: int) -> None:
        """Ends the whole job now."""
        self.transport.abort(code)

    # ---- helpers ----------------------------------------------------------------------------------------

    def _now(self, plan: Plan[Any]) -> Any:
        begin = perf_counter()
        result = run_now(plan.steps, self.transport)
        self.ledger.add(self.label, plan.operation, self._sent(plan), perf_counter() - begin)
        return result

    def _later(self, plan: Plan[Any]) -> Handle:
        """Of collectives that take several steps, those end in the order in which they were started."""
        sent, site = self._sent(plan), call_site()

        def done(seconds: float) -> None:
            self.ledger.add(self.label, plan.operation, sent, seconds, site)

        return Handle(plan.steps, self.transport, done, _queue(self.transport) if plan.several else None)

    def _way(self, n_bytes: int) -> Scheme | Shared:
        """Through memory where that can be and pays; `n_bytes`: of an array that is the same on all ranks."""
        return self._scheme if self.shared is None or not self.shared.pays(n_bytes) else self.shared

    def _sent(self, plan: Plan[Any]) -> int:
        return int(plan.n_bytes) if self.size > 1 else 0

    def _to_others(self, sends: Mapping[int, Array]) -> int:
        return sum(int(x.nbytes) for to, x in sends.items() if to != self.rank)

    def _all_but_mine(self, x: Array, dim: int, sizes: Sequence[int]) -> int:
        return (sum(sizes) - sizes[self.rank]) * row_bytes(x.shape, dim, x.dtype.itemsize)


@cache
def _queue(transport: Transport) -> Queue:
    """One for all that share the transport. Made when first asked for, by a call that is collective itself."""
    return Queue(transport.duplicate())
