"""What is done across ranks around a model: moving gradients."""

from __future__ import annotations

from mpipar.parallel.finite import stop_unless_finite
from mpipar.parallel.sync import sync_gradients, sync_in_backward

__all__ = ["stop_unless_finite", "sync_gradients", "sync_in_backward"]
