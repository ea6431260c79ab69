"""Gradient sync: what is owed on the axes where a weight is Replicate is summed, one collective a bucket."""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.nn.gradients import Bucket, buckets
from mpipar.nn.module import Module
from mpipar.tensor import Tensor


def sync_gradients(model: Module | Sequence[Tensor]) -> None:
    """Moves every gradient from Partial to Replicate where its weight is Replicate.

    Call it on all ranks after the last backward of a step. A parameter without a gradient counts as zeros.
    After it a gradient has the placement of its weight; a further backward raises until `optimizer.step()`.
    What was synced already stays as it is.
    """
    parameters = model.parameters() if isinstance(model, Module) else model
    for bucket in buckets([p for p in parameters if p.leaf.layout == p.leaf.wanted]):
        bucket.settle()
        _allreduce(bucket)


def _allreduce(bucket: Bucket) -> None:
    first = bucket.parameters[0]
    mesh = first.mesh
    axes = [axis for axis in mesh.grid.axes if axis in first.layout.dual.partial and mesh.shape[axis] > 1]
    if axes:
        mesh.xp.copy_into(bucket.buffer, mesh.comm(*axes).allreduce(bucket.buffer))
    for parameter in bucket.parameters:
        parameter.leaf.moved(parameter.layout)
