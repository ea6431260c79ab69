"""The child of `aware.probe`: sends an array of a card to itself. Exit code 0 where the same array arrives."""

from __future__ import annotations

import sys

from mpipar.backend import cards
from mpipar.comm import Comm, Ledger, OnDevice


def main(card: int) -> bool:
    from mpipar.comm.mpi import Mpi  # noqa: PLC0415  (importing it loads MPI)

    xp = cards.take(card, "probed", gpu_aware=True)
    assert xp.device is not None
    alone = Comm(OnDevice(Mpi.world(), xp.device), "probe", Ledger(), xp)
    sent = xp.arange(0, 100_000)
    return bool(xp.item(xp.sum(alone.sendrecv(sent, to=0, source=0) == sent)) == sent.size)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1])) else 1)
