"""Collectives through shared memory beside the same over MPI: ``mpirun -n 2 python benchmarks/collectives.py``.

Microseconds, medians of the slowest rank; the forms take turns in every round. `in place` is what a sync of gradients
does: the array lies in shared memory and its sum takes its place. `there` has its array in shared memory already, `from
elsewhere` copies it there first. The last column is MPI's own allreduce, which promises no equal bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from mpi4py import MPI

from mpipar import Mesh
from mpipar.comm import Comm, Ledger
from mpipar.job import world

KIB = 1 << 10
BUDGET = 256 << 20  # bytes that a form moves at one size


def forms(through: Comm, over: Comm, n_bytes: int) -> dict[str, Callable[[], Any]]:
    """What is timed: each a function without arguments. `through` goes through shared memory, `over` over MPI."""
    xp, size = through.xp, through.size
    count = n_bytes // 4 // size * size
    there, elsewhere, result = (make((count,), "float32") for make in (xp.empty_shared, xp.empty, xp.empty))
    bucket, piece = xp.empty_shared((count,), "float32"), xp.empty((count // size,), "float32")
    for x in (there, elsewhere, result, bucket, piece):
        xp.fill(x, 0)
    sizes = (count // size,) * size
    mpi = MPI.COMM_WORLD
    return {
        "allreduce in place": lambda: through.allreduce(bucket, out=bucket),
        "there": lambda: through.allreduce(there),
        "from elsewhere": lambda: through.allreduce(elsewhere),
        "over MPI": lambda: over.allreduce(elsewhere),
        "MPI's own": lambda: mpi.Allreduce(elsewhere, result),
        "reduce_scatter there": lambda: through.reduce_scatter(there),
        "r.s. from elsewhere": lambda: through.reduce_scatter(elsewhere),
        "r.s. over MPI": lambda: over.reduce_scatter(elsewhere),
        "allgather": lambda: through.allgather(piece, 0, sizes),
        "a.g. over MPI": lambda: over.allgather(piece, 0, sizes),
    }


def timed(comm: Comm, run: Callable[[], Any]) -> float:
    """Seconds of the slowest rank."""
    comm.barrier()
    begin = perf_counter()
    run()
    return max(comm.allgather_object(perf_counter() - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kib", type=int, nargs="+", default=[16, 64, 256, 1024, 4096, 16384, 65536])
    args = parser.parse_args()
    through = Mesh(tp=world().size)["tp"]
    if through.shared is None:
        raise SystemExit("these ranks share no memory: start at least two, on one machine")
    through.xp.arena.least = 0
    over = Comm(through.transport, "over MPI", Ledger(), through.xp)
    over.shared = None
    for kib in args.kib:
        runs = forms(through, over, kib * KIB)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(2 + max(7, min(100, BUDGET // (kib * KIB) // 4))):
            for name, run in runs.items():
                took = timed(through, run)
                if turn >= 2:
                    seconds[name].append(took)
        if through.rank == 0:
            if kib == args.kib[0]:
                print(f"{through.size} ranks, µs" + "".join(f"{name:>22}" for name in runs))
            print(
                f"{kib:8} KiB" + "".join(f"{1e6 * median(took):22.0f}" for took in seconds.values()),
                flush=True,
            )


if __name__ == "__main__":
    main()
