"""The door to MPI: the only file that imports mpi4py. It carries bytes; it never computes.

That MPI only carries bytes has three reasons: every dtype travels the same way, sums are made by the backend
in the order of the ranks and so have the same bits on every rank and with every MPI, and the native
16-bit types, which abort some MPIs, are never used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import mpi4py

# Importing loads the library, `start` starts it: a launcher that it does not fit is refused in between.
mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
from mpi4py import MPI

from mpipar.comm import large
from mpipar.comm.handle import Request
from mpipar.comm.steps import (
    Allgatherv,
    Alltoallv,
    Barrier,
    Broadcast,
    Buffer,
    Exchange,
    Fetch,
    Gatherv,
    Receive,
    Scatterv,
    Send,
    Step,
    check_length,
)
from mpipar.errors import CommError

BYTE = MPI.BYTE  # counts go in as lists: mpi4py takes a tuple of two for (counts, displacements)


def version_of_library() -> str:
    """The MPI library in one line, as it names itself. It need not have started."""
    return MPI.Get_library_version().splitlines()[0].strip("\0 ")


def start() -> None:
    """Starts MPI, unless the program has; it ends with the process."""
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of N jobs of one rank: launcher.py says it once
            MPI.Init_thread(MPI.THREAD_MULTIPLE)


def host() -> str:
    """What MPI calls the node of this rank."""
    return MPI.Get_processor_name()


def sharing_memory() -> int:
    """How many ranks MPI reaches through memory, this one included. Collective over all ranks."""
    near = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    size = near.Get_size()
    near.Free()
    return size


class Mpi:
    """A transport over an MPI communicator."""

    def __init__(self, comm: MPI.Intracomm, memories: Mapping[int, Any] | None = None) -> None:
        self._comm, self.memories = comm, memories or {}
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    @classmethod
    def world(cls) -> Mpi:
        start()
        return cls(MPI.COMM_WORLD.Dup())  # the user's own messages stay apart

    def run(self, step: Step) -> None:
        try:
            self._run(large.countable(step, self.rank, self.size))
        except MPI.Exception as error:
            raise refused(step, error) from error

    def _run(self, step: Step) -> None:
        comm = self._comm
        match step:
            case Allgatherv(send, recv, counts):
                comm.Allgatherv([send, BYTE], [recv, list(counts), BYTE])
            case Alltoallv(send, send_counts, recv, recv_counts, _):
                comm.Alltoallv([send, list(send_counts), BYTE], [recv, list(recv_counts), BYTE])
            case Broadcast(buffer, root):
                for _, part in large.in_parts(buffer):
                    comm.Bcast([part, BYTE], root)
            case Gatherv(send, recv, counts, root):
                comm.Gatherv([send, BYTE], None if recv is None else [recv, list(counts), BYTE], root)
            case Scatterv(send, recv, counts, root):
                comm.Scatterv(None if send is None else [send, list(counts), BYTE], [recv, BYTE], root)
            case Send(_, to, _) if to == self.rank:
                raise CommError("send to oneself would wait for ever; write isend or sendrecv")
            case Send(buffer, to, tag):
                comm.Send(message(buffer), to, tag)
            case Receive(buffer, source, tag):
                received(buffer, source, lambda status: comm.Recv(message(buffer), source, tag, status))
            case Exchange(send, ((to, _, _),), recv, ((source, _, _),), tag):  # one each: half the price
                both = message(send), to, tag, message(recv), source, tag
                received(recv, source, lambda status: comm.Sendrecv(*both, status))
            case Exchange() | Fetch():
                self.start(step).wait()
            case Barrier():
                comm.Barrier()

    def start(self, step: Step) -> Request:
        try:
            return Pending(step, list(self._started(large.countable(step, self.rank, self.size))))
        except MPI.Exception as error:
            raise refused(step, error) from error

    def _started(self, step: Step) -> Iterator[Started]:
        comm = self._comm
        match step:
            case Allgatherv(send, recv, counts):
                yield Started(comm.Iallgatherv([send, BYTE], [recv, list(counts), BYTE]))
            case Alltoallv(send, send_counts, recv, recv_counts, _):
                there, here = [send, list(send_counts), BYTE], [recv, list(recv_counts), BYTE]
                yield Started(comm.Ialltoallv(there, here))
            case Broadcast(buffer, root):
                for _, part in large.in_parts(buffer):
                    yield Started(comm.Ibcast([part, BYTE], root))
            case Gatherv(send, recv, counts, root):
                joined = None if recv is None else [recv, list(counts), BYTE]
                yield Started(comm.Igatherv([send, BYTE], joined, root))
            case Scatterv(send, recv, counts, root):
                pieces = None if send is None else [send, list(counts), BYTE]
                yield Started(comm.Iscatterv(pieces, [recv, BYTE], root))
            case Send(buffer, to, tag):
                yield Started(comm.Isend(message(buffer), to, tag))
            case Receive(buffer, source, tag):
                yield Started(comm.Irecv(message(buffer), source, tag), buffer, source)
            case Exchange():
                yield from self._exchange(step)
            case Fetch(buffer, window, source, first):
                for start, part in large.in_parts(buffer):
                    yield Started(window.get([part, BYTE], source, first + start))
            case Barrier():
                yield Started(comm.Ibarrier())

    def _exchange(self, step: Exchange) -> Iterator[Started]:
        """Receives first: what comes finds its place."""
        for source, start, stop in step.receives:
            buffer = step.recv[start:stop]  # type: ignore[index]
            yield Started(self._comm.Irecv(message(buffer), source, step.tag), buffer, source)
        for to, start, stop in step.sends:
            yield Started(self._comm.Isend(message(step.send[start:stop]), to, step.tag))  # type: ignore[index]

    def expose(self, buffer: Buffer) -> Window:
        return Window(self._comm, buffer)

    def machine(self) -> tuple[int, ...]:
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        ranks = tuple(here.allgather(self.rank))
        here.Free()
        return ranks

    def group(self, ranks: tuple[int, ...]) -> Mpi:
        """A communicator of some ranks, made by those ranks alone."""
        mine = self._comm.Get_group().Incl(ranks)
        memories = {new: self.memories[old] for new, old in enumerate(ranks) if old in self.memories}
        return Mpi(self._comm.Create_group(mine), memories)

    def duplicate(self) -> Mpi:
        return Mpi(self._comm.Dup(), self.memories)

    def broadcast_object(self, value: Any, root: int) -> Any:
        return self._comm.bcast(value, root)

    def allgather_object(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def abort(self, code: int) -> None:
        MPI.COMM_WORLD.Abort(code)


class Started(NamedTuple):
    """A call of MPI under way; of a receive the buffer, whose length is checked."""

    request: MPI.Request
    buffer: Buffer | None = None
    source: int = -1


class Pending:
    """A step under way; keeps its buffers alive until it is complete.

    Where one of several messages is wrong the others are completed all the same, so that none is left for a later call.
    """

    def __init__(self, step: Step, calls: list[Started]) -> None:
        self._step, self._calls = step, calls
        self._error: CommError | None = None

    def test(self) -> bool:
        self._calls = [call for call in self._calls if not self._complete(call, call.request.Test)]
        return not self._calls and self._told()

    def wait(self) -> None:
        for call in self._calls:
            self._complete(call, call.request.Wait)
        self._calls = []
        self._told()

    def _complete(self, call: Started, ends: Callable[[MPI.Status], bool]) -> bool:
        try:
            if call.buffer is None:
                return ends(MPI.Status())
            return received(call.buffer, call.source, ends)
        except (CommError, MPI.Exception) as error:
            wrong = error if isinstance(error, CommError) else refused(self._step, error)
            self._error = self._error or wrong
            return True

    def _told(self) -> bool:
        if self._error is not None:
            raise self._error
        return True


class Window:
    """A buffer on every rank that the others may read, over `MPI.Win`: one's own memory, never shared memory.

    Any rank may read at any time until `close`, which all ranks call. That is one access epoch, to all targets.
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        self._buffer = buffer  # kept alive
        self._window = MPI.Win.Create(buffer, 1, comm=comm)
        self._window.Lock_all()

    def get(self, into: Any, source: int, start: int) -> MPI.Request:
        return self._window.Rget(into, source, [start, len(into[0]), BYTE])

    def close(self) -> None:
        self._window.Unlock_all()
        self._window.Free()


def message(buffer: Buffer) -> Any:
    """The whole buffer as one message, whatever its length: of blocks and a rest where bytes are too many to count."""
    if len(buffer) <= large.LIMIT:
        return [buffer, BYTE]
    return [buffer, 1, datatype_of(len(buffer), large.LIMIT)]


@cache
def datatype_of(n_bytes: int, block: int) -> MPI.Datatype:
    blocks, rest = divmod(n_bytes, block)
    return MPI.Datatype.Create_struct(
        [blocks, rest], [0, blocks * block], [BYTE.Create_contiguous(block), BYTE]
    ).Commit()


def received(buffer: Buffer, source: int, receive: Callable[[MPI.Status], bool | None]) -> bool:
    """Runs a receive, or tests it: whether the message is there. Raises CommError where it has another length."""
    status = MPI.Status()
    try:
        if receive(status) is False:
            return False
        check_length(status.Get_elements(BYTE), buffer, source)
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_TRUNCATE:
            raise
        check_length(f"more than {len(buffer)}", buffer, source)
    return True


def refused(step: Step, error: MPI.Exception) -> CommError:
    """What MPI refuses in a collective is nearly always that the ranks came with different arguments."""
    return CommError(
        f"{type(step).__name__}: {error.Get_error_string()}. "
        "All ranks must call the same collective, with shapes, dtypes and sizes that fit"
    )
