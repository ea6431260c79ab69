"""Threads of a rank: ranks that share cores must share them out, or they run many times slower.

200 products of 256 × 256 with a small allreduce between them, 4 ranks on 2 cores: 10.9 s with OpenBLAS's own
choice of threads, 0.22 s with one thread a rank.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from threadpoolctl import ThreadpoolController

from mpipar import backend
from mpipar.comm.comm import Comm
from mpipar.job import slurm

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Threads:
    """What became of the threads of this rank."""

    share: int  # cores that fall to this rank: threads that it is to compute with
    local_rank: int  # among the ranks of this machine
    chosen: str  # the variable by which the user chose, which is left alone; empty where we capped
    libraries: tuple[tuple[str, int], ...]  # name and threads of each BLAS in this process, as they are now
    kernels: int  # threads of the compiled kernels, as they are now; 0 where the kernels are NumPy's


def cap_blas_threads(world: Comm) -> Threads:
    """Lowers the threads of each loaded BLAS to this rank's share of its cores, unless the user chose.

    Collective over `world`. Never raises a number of threads; a BLAS that is loaded later is not seen. SLURM's
    --cpus-per-task is a bound where its tasks are not bound to cores, and other jobs may have the rest of the node.
    """
    here, cores = machine(), os.sched_getaffinity(0)
    everyone = world.allgather_object((here, cores))
    shared = share_of_cores(cores, [theirs for where, theirs in everyone if where == here])
    share = min(shared, slurm.cpus_per_task() or shared)
    before = sum(where == here for where, _ in everyone[: world.rank])
    chosen = next((f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)), "")
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    if not chosen:
        for library in libraries:
            if library.num_threads > share:
                library.set_num_threads(share)
    running = tuple((library.internal_api, library.num_threads) for library in libraries)
    return Threads(share, before, chosen, running, backend.kernel_threads())


def use_threads(count: int) -> None:
    """This rank computes on `count` threads. Compiled kernels cut their work over them, and BLAS then has one in each;
    NumPy's leave all of them to BLAS.
    """
    of_blas = 1 if backend.use_threads(count) else count
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        library.set_num_threads(of_blas)


def share_of_cores(mine: Collection[int], of_node: Sequence[Collection[int]]) -> int:
    """Threads for a rank that may run on the cores `mine`, among its node's ranks (itself too): at least 1.

    Each core is shared evenly among the ranks that may run on it.

        >>> share_of_cores({0, 1, 2, 3}, [{0, 1, 2, 3}, {0, 1, 2, 3}])
        2
        >>> share_of_cores({0, 1}, [{0, 1}, {2, 3}])
        2
    """
    cores = (sum(core in other for other in of_node) for core in mine)
    return max(1, int(sum(Fraction(1, count) for count in cores)))


def machine() -> str:
    """Equal on all ranks whose cores are the same cores: containers on one machine too."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return os.uname().nodename
