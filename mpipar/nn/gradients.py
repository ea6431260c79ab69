"""The flat gradient store: the gradients of many parameters in a few buffers.

Parameters whose gradients are owed on the same axes, in one dtype, share a bucket: their gradients are views of
one flat array, so that a sync is one collective for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mpipar.backend import Array
from mpipar.tensor import Tensor


@dataclass(eq=False)
class Bucket:
    """Parameters and the flat array that holds their gradients, one after the other."""

    parameters: list[Tensor]
    buffer: Array

    def settle(self) -> None:
        """Zeros where no gradient has arrived."""
        for parameter in self.parameters:
            parameter.leaf.settle()


def buckets(parameters: Sequence[Tensor]) -> list[Bucket]:
    """The buckets of these parameters: those they are in already, or new ones; in the same order on all ranks."""
    homes = list(dict.fromkeys(parameter.leaf.home for parameter in parameters))
    if None not in homes and sum(len(home.parameters) for home in homes) == len(parameters):
        return homes
    groups: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(_kind(parameter), []).append(parameter)
    return [_bucket(group) for group in groups.values()]


def _kind(parameter: Tensor) -> object:
    """What the parameters of one bucket have in common."""
    return id(parameter.mesh), str(parameter.dtype), parameter.layout.dual.partial


def _bucket(parameters: list[Tensor]) -> Bucket:
    xp = parameters[0].mesh.xp
    starts = list(accumulate((parameter.local.size for parameter in parameters), initial=0))
    dtype = xp.widen(parameters[0].local).dtype  # gradients of 16-bit weights are float32
    bucket = Bucket(parameters, xp.zeros((starts[-1],), dtype))
    for parameter, (start, stop) in zip(parameters, pairwise(starts), strict=True):
        parameter.leaf.adopt(bucket.buffer[start:stop].reshape(parameter.local.shape))
        parameter.leaf.home = bucket
    return bucket
