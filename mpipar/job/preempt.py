"""Stopping because the cluster asks for it: a signal sets a flag, and all ranks learn of it at the end of a step.
So they do where one rank sees the time limit come near.

A handler of Python runs when the main thread is back from MPI. A rank that sits in a collective therefore learns of its
signal when that ends, and the others at the end of their step. The handler only sets the flag: further signals do no
harm, be it in the middle of a save.
"""

from __future__ import annotations

import signal
from types import FrameType

from mpipar.comm import Comm
from mpipar.job.limit import TimeLimit

PREEMPTED = 85  # the exit code that asks a batch script to requeue the job
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preemption:
    """Catches SIGUSR1 and SIGTERM from its making on; `requested` tells all ranks.

    `asked` is a list to which a program's own handlers add: those of its first lines, before mpipar is imported, so
    that a signal during the imports counts, too. Then no handlers are installed here. `limit`: a run without a signal
    ends before it.
    """

    def __init__(self, asked: list[int] | None = None, limit: TimeLimit | None = None) -> None:
        self._asked: list[int] = [] if asked is None else asked
        self._limit = limit or TimeLimit()
        self.reason = "by a signal"
        if asked is None:
            for number in SIGNALS:
                signal.signal(number, self._note)

    def requested(self, comm: Comm) -> bool:
        """Whether any rank was sent a signal, or sees its limit; the same on all ranks. Once a step, after it.

        Collective: one number is exchanged. `reason` says why, on the rank that has the limit.
        """
        xp = comm.xp
        if self._limit.is_near() and not self._asked:
            self._asked.append(0)
            self.reason = "before the time limit"
        return bool(xp.item(comm.allreduce(xp.from_host(int(bool(self._asked)), "int8"), "max")))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked.append(number)
