"""One-sided reading: arrays that all ranks open to each other, and any may read without the owner's part in it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpipar.backend import Array, Shape
from mpipar.comm import arguments
from mpipar.comm.handle import Handle
from mpipar.comm.plan import Plan, background, collective
from mpipar.comm.scheme import row_bytes, with_length
from mpipar.errors import CommError

if TYPE_CHECKING:
    from mpipar.comm.comm import Comm

LEFT_OPEN: list[Window] = []  # by an error inside the block: others may still read, so the arrays are kept


class Window:
    """The arrays of all ranks, open to be read inside a ``with`` block: see `Comm.expose`.

    `shapes` and `dtypes` are those of every rank's array. An error that leaves the block does not wait for the other
    ranks, which may be waiting for this one: the window then stays open until the job ends.
    """

    def __init__(self, comm: Comm, x: Array) -> None:
        self._comm, self._x = comm, comm.xp.contiguous(x)
        told = comm.allgather_object((x.shape, str(x.dtype)))
        self.shapes: tuple[Shape, ...] = tuple(shape for shape, _ in told)
        self.dtypes: tuple[str, ...] = tuple(dtype for _, dtype in told)
        self._exposed = comm.transport.expose(comm.xp.wire(self._x))
        self._open = True

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if kind is None:
            self._exposed.close()
        else:
            LEFT_OPEN.append(self)

    @collective
    def fetch(self, rank: int, start: int = 0, stop: int | None = None) -> Plan[Array]:
        """The rows (dim 0) `start` to `stop` of the array of `rank`; all of it by default."""
        if not self._open:
            raise CommError(
                f"fetch on {self._comm.label!r}: the window is closed; fetch inside its with block"
            )
        shape = self.shapes[arguments.rank_of(self._comm, rank, "rank")]
        dtype = self._comm.xp.dtype(self.dtypes[rank])
        if not shape:
            shape, first = _whole(self._comm.label, rank, start, stop), 0
        else:
            stop = shape[0] if stop is None else stop
            if not 0 <= start <= stop <= shape[0]:
                raise ValueError(
                    f"fetch on {self._comm.label!r}: rows {start} to {stop}; the array of rank {rank} has {shape[0]}"
                )
            first = start * row_bytes(shape, 0, dtype.itemsize)
            shape = with_length(shape, 0, stop - start)
        steps = self._comm._scheme.fetch(self._exposed, rank, shape, dtype, first)
        n_bytes = row_bytes((1, *shape), 0, dtype.itemsize) if rank != self._comm.rank else 0
        return Plan("fetch", n_bytes, steps)

    ifetch = background(fetch)

    def _now(self, plan: Plan[Any]) -> Any:
        return self._comm._now(plan)

    def _later(self, plan: Plan[Any]) -> Handle:
        return self._comm._later(plan)


def _whole(label: str, rank: int, start: int, stop: int | None) -> Shape:
    if (start, stop) != (0, None):
        raise ValueError(
            f"fetch on {label!r}: the array of rank {rank} is 0-d and has no rows; fetch({rank})"
        )
    return ()
