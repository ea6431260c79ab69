"""Steps of more bytes than an MPI can count.

MPI counts in 32 bits where it is older than its standard 4.0, displacements into a buffer included. A collective whose
buffer is longer than LIMIT therefore travels as messages, all under way at once, and a broadcast in parts. All ranks
judge by the same number, so that all take the same way. A long message is one message still: see `mpi.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from mpipar.comm import steps
from mpipar.comm.steps import Allgatherv, Alltoallv, Buffer, Exchange, Gatherv, Part, Scatterv, Step, parts

LIMIT = 1 << 30  # bytes


def countable(step: Step, rank: int, size: int) -> Step:
    """The step itself, or where it is too large the exchange of messages that does the same."""
    match step:
        case Allgatherv(_, _, counts) | Gatherv(_, _, counts, _) | Scatterv(_, _, counts, _):
            return step if sum(counts) <= LIMIT else as_messages(step, rank, size)
        case Alltoallv():
            return step if step.most <= LIMIT else as_messages(step, rank, size)
    return step


def as_messages(step: Allgatherv | Alltoallv | Gatherv | Scatterv, rank: int, size: int) -> Exchange:
    match step:
        case Allgatherv(send, recv, counts):
            sends, receives = tuple(Part(to, 0, len(send)) for to in range(size)), parts(counts)
        case Alltoallv(send, send_counts, recv, recv_counts, _):
            sends, receives = parts(send_counts), parts(recv_counts)
        case Gatherv(send, recv, counts, root):
            sends, receives = (Part(root, 0, len(send)),), parts(counts) if rank == root else ()
        case Scatterv(send, recv, counts, root):
            sends, receives = parts(counts) if rank == root else (), (Part(root, 0, len(recv)),)
    return Exchange(send, sends, recv, receives, steps.LARGE)


def in_parts(buffer: Buffer) -> Iterator[tuple[int, Buffer]]:
    """Where each part begins, and the part. An empty buffer is one part."""
    for start in range(0, len(buffer) or 1, LIMIT):
        yield start, buffer[start : start + LIMIT]
