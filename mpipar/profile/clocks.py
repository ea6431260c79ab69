"""How far the clocks of the ranks are apart. Cristian 1989: of many questions the one that was answered soonest."""

from __future__ import annotations

from time import perf_counter

from mpipar.comm import Comm

QUESTIONS = 20  # to each rank


def offsets(ranks: Comm) -> list[float]:
    """On rank 0: seconds by which each rank's perf_counter is ahead of its own, to half the time of an answer.

    Collective; elsewhere zeros come back.
    """
    comm = ranks.duplicate("clock")
    found = [0.0] * comm.size
    for other in range(1, comm.size):
        if comm.rank == 0:
            found[other] = min(asked(comm, other) for _ in range(QUESTIONS))[1]
        elif comm.rank == other:
            for _ in range(QUESTIONS):
                answer(comm)
    return found


def asked(comm: Comm, other: int) -> tuple[float, float]:
    """How long the answer took, and how far that clock was ahead in the middle of it."""
    begin = perf_counter()
    comm.send(comm.xp.full((1,), begin, "float64"), other)
    theirs = float(comm.xp.item(comm.recv((1,), "float64", other)))
    end = perf_counter()
    return end - begin, theirs - (begin + end) / 2


def answer(comm: Comm) -> None:
    comm.recv((1,), "float64", 0)
    comm.send(comm.xp.full((1,), perf_counter(), "float64"), 0)
