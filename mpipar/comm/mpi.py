"""The door to MPI: the only file that imports mpi4py. It carries bytes; it never computes.

That MPI only carries bytes has three reasons: every dtype travels the same way, sums are made by the backend
in the order of the ranks and so have the same bits on every rank and with every MPI, and the native
16-bit types, which abort some MPIs, are never used.
"""

from __future__ import annotations

from typing import Any

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
)
from mpipar.errors import CommError

BYTE = MPI.BYTE  # counts go in as lists: mpi4py takes a tuple of two for (counts, displacements)


def library_version() -> str:
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
                status = MPI.Status()
                comm.Recv([buffer, BYTE], source, tag, status)
                check_length(status, buffer, source)
            case SendReceive(send, to, recv, source, tag):
                status = MPI.Status()
                comm.Sendrecv([send, BYTE], to, tag, [recv, BYTE], source, tag, status)
                check_length(status, recv, source)
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
        status = MPI.Status()
        done = self._request.Test(status)
        if done:
            self._check(status)
        return done

    def wait(self) -> None:
        status = MPI.Status()
        self._request.Wait(status)
        self._check(status)

    def _check(self, status: MPI.Status) -> None:
        match self._step:
            case Receive(buffer, source, _):
                check_length(status, buffer, source)


def check_length(status: MPI.Status, buffer: Buffer, source: int) -> None:
    """MPI fills a buffer with a shorter message and says nothing; we do not."""
    got, wanted = status.Get_count(BYTE), len(buffer)
    if got != wanted:
        raise CommError(f"recv from rank {source}: {got} bytes came, {wanted} were expected")
