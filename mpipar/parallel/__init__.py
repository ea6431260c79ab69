"""What is done across ranks around a model: moving gradients, and cutting weights over data-parallel ranks."""

from __future__ import annotations

from mpipar.parallel.finite import stop_unless_finite
from mpipar.parallel.local_sgd import LocalSGD, replica_mesh
from mpipar.parallel.sanity import check_loss, check_weights
from mpipar.parallel.sync import sync_gradients, sync_in_backward
from mpipar.parallel.zero import sharded

__all__ = [
    "LocalSGD", "check_loss", "check_weights", "replica_mesh", "sharded", "stop_unless_finite", "sync_gradients",
    "sync_in_backward",
]  # fmt: skip
