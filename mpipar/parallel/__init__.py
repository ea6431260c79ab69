"""What is done across ranks around a model: moving gradients, cutting weights over ranks, running a pipeline."""

from __future__ import annotations

from mpipar.parallel.finite import stop_unless_finite
from mpipar.parallel.local_sgd import LocalSGD, Start, replica_mesh
from mpipar.parallel.pipeline import Pipeline
from mpipar.parallel.replicas import (
    mesh_of_replica,
    outer_weights,
    over_replicas,
    replicas_of,
    shared_weights,
)
from mpipar.parallel.sanity import check_loss, check_weights
from mpipar.parallel.setup import chosen_schedule, described, rows_of_all
from mpipar.parallel.sync import sync_gradients, sync_in_backward
from mpipar.parallel.zero import sharded

__all__ = [
    "LocalSGD", "Pipeline", "Start", "check_loss", "check_weights", "chosen_schedule", "described", "mesh_of_replica",
    "outer_weights", "over_replicas", "replica_mesh", "replicas_of", "rows_of_all", "sharded", "shared_weights",
    "stop_unless_finite", "sync_gradients", "sync_in_backward",
]  # fmt: skip
