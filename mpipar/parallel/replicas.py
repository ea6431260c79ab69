"""What a training loop needs where replicas train apart (--outer), and does nothing where they do not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from mpipar.comm import Comm
from mpipar.config import NONE
from mpipar.mesh import Mesh
from mpipar.parallel.local_sgd import LocalSGD, Start, replica_mesh

M = TypeVar("M")


def mesh_of_replica(mesh: Mesh, outer: str) -> Mesh:
    """The ranks that train one model in step: all of them, or those of this rank's replica. Collective."""
    return mesh if outer == NONE else replica_mesh(mesh, outer)


def replicas_of(mesh: Mesh, outer: str) -> Comm | None:
    """The ranks that have my place in all replicas; None where they do not train apart."""
    return None if outer == NONE else mesh[outer]


def over_replicas(replicas: Comm | None, *numbers: float) -> list[float]:
    """The mean over the replicas of each of the numbers, the same on all ranks: one allreduce of 8 bytes a number."""
    if replicas is None:
        return list(numbers)
    xp = replicas.xp
    means = xp.to_host(replicas.allreduce(xp.from_host(numbers, "float64"))) / replicas.size
    return [float(mean) for mean in means]


def outer_weights(optimizer: object) -> AbstractContextManager[None]:
    """Inside the block the model has the weights that all replicas share."""
    return optimizer.outer_weights() if isinstance(optimizer, LocalSGD) else nullcontext()


def shared_weights(model: M, optimizer: Any) -> M | Start:
    """What a checkpoint holds as the model: it, or the weights that all replicas share."""
    return optimizer.start if isinstance(optimizer, LocalSGD) else model
