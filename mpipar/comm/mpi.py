"""The door to MPI: the only file that imports mpi4py. It carries bytes; it never computes.

That MPI only carries bytes has three reasons: every dtype travels the same way, sums are made by the backend
in the order of the ranks and so have the same bits on every rank and with every MPI, and the native
16-bit types, which abort some MPIs, are never used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of N jobs of one rank: launcher.py says it once
    from mpi4py import MPI

from mpipar.comm.handle import Request
from mpipar.comm.steps import (
    Allgatherv,
    Alltoallv,
    Barrier,
    Broadcast,
    Buffer,
    Gatherv,
    Receive,
    Scatterv,
    Send,
    SendReceive,
    Step,
    check_length,
)
from mpipar.errors import CommError

BYTE = MPI.BYTE  # counts go in as lists: mpi4py takes a tuple of two for (counts, displacements)


def version_of_library() -> str:
    """The MPI library in one line, as it names itself."""
    return MPI.Get_library_version().splitlines()[0].strip("\0 ")


class Mpi:
    """A transport over an MPI communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @classmethod
    def world(cls) -> Mpi:
        return cls(MPI.COMM_WORLD.Dup())  # the user's own messages stay apart

    def run(self, step: Step) -> None:
        comm = self._comm
        match step:
            case Allgatherv(send, recv, counts):
                comm.Allgatherv([send, BYTE], [recv, list(counts), BYTE])
            case Alltoallv(send, send_counts, recv, recv_counts):
                comm.Alltoallv([send, list(send_counts), BYTE], [recv, list(recv_counts), BYTE])
            case Broadcast(buffer, root):
                comm.Bcast([buffer, BYTE], root)
            case Gatherv(send, recv, counts, root):
                comm.Gatherv([send, BYTE], None if recv is None else [recv, list(counts), BYTE], root)
            case Scatterv(send, recv, counts, root):
                comm.Scatterv(None if send is None else [send, list(counts), BYTE], [recv, BYTE], root)
            case Send(buffer, to, tag):
                comm.Send([buffer, BYTE], to, tag)
            case Receive(buffer, source, tag):
                received(buffer, source, lambda status: comm.Recv([buffer, BYTE], source, tag, status))
            case SendReceive(send, to, recv, source, tag):
                both = [send, BYTE], to, tag, [recv, BYTE], source, tag
                received(recv, source, lambda status: comm.Sendrecv(*both, status))
            case Barrier():
                comm.Barrier()

    def start(self, step: Step) -> Request:
        comm = self._comm
        match step:
            case Allgatherv(send, recv, counts):
                return Pending(comm.Iallgatherv([send, BYTE], [recv, list(counts), BYTE]), step)
            case Alltoallv(send, send_counts, recv, recv_counts):
                started = comm.Ialltoallv([send, list(send_counts), BYTE], [recv, list(recv_counts), BYTE])
                return Pending(started, step)
            case Broadcast(buffer, root):
                return Pending(comm.Ibcast([buffer, BYTE], root), step)
            case Send(buffer, to, tag):
                return Pending(comm.Isend([buffer, BYTE], to, tag), step)
            case Receive(buffer, source, tag):
                return Pending(comm.Irecv([buffer, BYTE], source, tag), step)
            case Barrier():
                return Pending(comm.Ibarrier(), step)
        raise CommError(f"{type(step).__name__} has no form that runs in the background")

    def group(self, ranks: tuple[int, ...]) -> Mpi:
        """A communicator of some ranks, made by those ranks alone."""
        mine = self._comm.Get_group().Incl(ranks)
        return Mpi(self._comm.Create_group(mine))

    def duplicate(self) -> Mpi:
        return Mpi(self._comm.Dup())

    def broadcast_object(self, value: Any, root: int) -> Any:
        return self._comm.bcast(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


class Pending:
    """A step under way; keeps its buffers alive until it is complete."""

    def __init__(self, request: MPI.Request, step: Step) -> None:
        self._request, self._step = request, step

    def test(self) -> bool:
        return self._complete(self._request.Test)

    def wait(self) -> None:
        self._complete(self._request.Wait)

    def _complete(self, call: Callable[[MPI.Status], bool]) -> bool:
        match self._step:
            case Receive(buffer, source, _):
                return received(buffer, source, call)
        return call(MPI.Status())


def received(buffer: Buffer, source: int, receive: Callable[[MPI.Status], bool | None]) -> bool:
    """Runs a receive, or tests it: whether the message is there. Raises CommError where it has another length."""
    status = MPI.Status()
    try:
        if receive(status) is False:
            return False
        check_length(status.Get_count(BYTE), buffer, source)
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_TRUNCATE:
            raise
        check_length(f"more than {len(buffer)}", buffer, source)
    return True
