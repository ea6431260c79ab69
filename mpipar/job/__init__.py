"""This process as a rank of its job: how MPI starts, and how the job ends. Only `world()` starts MPI."""

from __future__ import annotations

from functools import cache

from mpipar import backend
from mpipar.comm import Comm, Ledger, OnDevice, Solo, Transport, shared
from mpipar.errors import LauncherError
from mpipar.job import launcher, safety, threads

__all__ = ["among", "local_rank", "world", "world_if_started"]

_world: Comm | None = None
_local_rank = 0


def world() -> Comm:
    """All ranks of the job. The first call starts MPI; without an MPI and without a launcher: one rank alone.

    Raises LauncherError where a launcher started us and MPI is missing or does not fit the launcher.
    """
    global _world, _local_rank  # noqa: PLW0603  (MPI itself is one per process)
    if _world is None:
        _world = Comm(_start(), "world", Ledger(), backend.cpu())
        found = threads.cap_blas_threads(_world)
        _local_rank = found.local_rank
        if not found.chosen and found.share > 1:
            threads.use_threads(found.share)
        launcher.mark_rank()
        if _world.size > 1:
            safety.install(_world)
    return _world


def world_if_started() -> Comm | None:
    """`world()` if somebody has called it; never starts MPI."""
    return _world


def local_rank() -> int:
    """My place among the ranks of the job on this machine."""
    world()
    return _local_rank


def among(
    ranks: tuple[int, ...], label: str, ledger: Ledger, xp: backend.Backend, *, apart: bool = False
) -> Comm:
    """The communicator of these ranks of the world, in this order; only they call.

    Meshes share it: MPI makes it once, and a program that makes meshes by the thousand does not run out of them.
    `apart`: another one between the same ranks, whose collectives do not mix with those of the first.
    """
    return Comm(_apart(ranks, xp) if apart else _carrier(ranks, xp), label, ledger, xp)


@cache
def _apart(ranks: tuple[int, ...], xp: backend.Backend) -> Transport:
    return _carrier(ranks, xp).duplicate()


@cache
def _carrier(ranks: tuple[int, ...], xp: backend.Backend) -> Transport:
    """The transport, as the arrays of the backend need it. One rank alone copies within their memory."""
    transport = _transport(ranks)
    return transport if xp.device is None or len(ranks) == 1 else OnDevice(transport, xp.device)


@cache
def _transport(ranks: tuple[int, ...]) -> Transport:
    base = world()
    if len(ranks) == 1:
        return Solo()
    if ranks == tuple(range(base.size)):
        return base.transport
    return base.transport.group(ranks)


def _start() -> Transport:
    launcher.refuse_child_of_rank()
    try:
        from mpipar.comm import mpi  # noqa: PLC0415  (importing it loads MPI)
    except (ImportError, RuntimeError) as error:
        if launcher.launched_size() > 1:
            raise LauncherError(launcher.no_mpi_message(error)) from None
        return Solo()
    launcher.refuse_foreign_start(mpi.version_of_library())
    started = mpi.Mpi.world()
    launcher.refuse_singletons(started.size, mpi.version_of_library())
    started.memories = shared.join(started, backend.cpu().arena)
    return started


safety.watch(world)  # a rank can fail before MPI has started, and the others would wait for it
