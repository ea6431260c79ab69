"""Gradient sync: what is owed on the axes where a weight is Replicate is summed, one collective a bucket.

A gradient goes to the layout of its weight (allreduce), or where ZeRO cuts its target, to the piece that this rank
updates (reduce_scatter, and an allreduce of the pieces over axes that are owed besides). The collectives may start
while backward still runs: each bucket leaves when it is complete and all before it have left. So the order is the
same on all ranks, whatever graph each of them has.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from mpipar.backend import Array, DType
from mpipar.comm import Handle
from mpipar.nn.gradients import BUCKET_BYTES, Bucket, buckets
from mpipar.nn.module import Module
from mpipar.nn.pieces import target
from mpipar.tensor import Tensor
from mpipar.tensor.tape import Leaf

IN_FLIGHT = 4  # buckets at most: what they carry is memory
Moves: TypeAlias = Generator[Handle, Array, None]


def sync_gradients(
    model: Module | Sequence[Tensor], *, wire: DType | None = None, bucket_bytes: int = BUCKET_BYTES
) -> None:
    """Moves every gradient from Partial to what its weight is, or to the piece that this rank updates (ZeRO 1 and 2).

    Call it on all ranks after the last backward of a step. A parameter without a gradient counts as zeros. A further
    backward raises until `optimizer.step()`.
    What was synced already stays as it is. `wire`: the dtype in which gradients travel, "bfloat16" for half the bytes
    of float32: the terms are rounded, sums are made in float32.
    """
    parameters = _parameters(model)
    for sync in dict.fromkeys(p.leaf.watch for p in parameters):
        if isinstance(sync, Sync):  # begun by sync_in_backward
            sync.finish()
    Sync(_due(parameters), wire, bucket_bytes).finish()


def sync_in_backward(
    model: Module | Sequence[Tensor], *, last: bool = True, wire: DType | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> None:  # fmt: skip
    """From now on buckets leave as soon as they are complete; `sync_gradients` sends the rest and waits for all.

    Call it on all ranks before a backward, with ``last=False`` where another one follows before the step (then nothing
    leaves, but under ZeRO 2). Between it and `sync_gradients` a gradient that comes to a bucket that has left raises.
    """
    parameters = [p for p in _parameters(model) if last or p.leaf.keeps_pieces]
    for sync in dict.fromkeys(p.leaf.watch for p in parameters):
        if isinstance(sync, Sync):  # of the micro-batch before: its pieces are on their way
            sync.finish()
    due = [p for p in parameters if p.leaf.layout == p.leaf.wanted or p.leaf.keeps_pieces]
    Sync(due, wire, bucket_bytes).watch()


def _parameters(model: Module | Sequence[Tensor]) -> list[Tensor]:
    return model.parameters() if isinstance(model, Module) else list(model)


def _due(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Those that were not synced. Of those that take further gradients (ZeRO 2) all or none: the same on all ranks."""
    due = {id(p) for p in parameters if p.leaf.layout == p.leaf.wanted}
    more = any(p.leaf.keeps_pieces and id(p) in due for p in parameters)
    return [p for p in parameters if id(p) in due or (more and p.leaf.keeps_pieces)]


class Sync:
    """One sync of a list of parameters: its buckets in their order, and what of them is under way."""

    def __init__(self, parameters: Sequence[Tensor], wire: DType | None, bucket_bytes: int) -> None:
        self._waiting = buckets(parameters, bucket_bytes)
        self._missing = {id(bucket): {id(p.leaf) for p in bucket.parameters} for bucket in self._waiting}
        self._wire = wire
        self._flights: list[Flight] = []

    def watch(self) -> None:
        """Hears of gradients that are complete."""
        for bucket in self._waiting:
            for parameter in bucket.parameters:
                parameter.leaf.watch = self

    def arrived(self, leaf: Leaf) -> None:
        """All gradients of a leaf that were recorded have arrived."""
        self._missing[id(leaf.home)].discard(id(leaf))
        while self._waiting and not self._missing[id(self._waiting[0])]:
            self._depart()
        self._drive()

    def finish(self) -> None:
        """Sends what has not left, and waits for all."""
        while self._waiting:
            self._depart()
        for flight in self._flights:
            flight.wait()

    def _depart(self) -> None:
        """One more bucket leaves; the one that is IN_FLIGHT before it has landed by then, on every rank."""
        if len(self._flights) >= IN_FLIGHT:
            self._flights[-IN_FLIGHT].wait()
        self._flights.append(Flight(self._waiting.pop(0), self._wire))

    def _drive(self) -> None:
        """MPI moves nothing by itself. A bucket takes its second step after those before it: one order on all ranks."""
        for flight in self._flights:
            if not flight.test():
                break


class Flight:
    """A bucket on its way."""

    def __init__(self, bucket: Bucket, wire: DType | None) -> None:
        self._bucket, self.landed = bucket, False
        self._moves = scattered(bucket, wire) if bucket.carrier else summed(bucket, wire)
        self._handle: Handle | None = None
        self._advance(None)

    def test(self) -> bool:
        """Goes on without waiting; true at the end."""
        while self._handle is not None and self._handle.test():
            self._advance(self._handle.wait())
        return self.landed

    def wait(self) -> None:
        while self._handle is not None:
            self._advance(self._handle.wait())

    def _advance(self, result: Any) -> None:
        try:
            self._handle = self._moves.send(result)
        except StopIteration:
            self._handle, self.landed = None, True
            for parameter in self._bucket.parameters:
                parameter.leaf.watch = None


def summed(bucket: Bucket, wire: DType | None) -> Moves:
    """Partial → Replicate: one allreduce, in place."""
    mesh, buffer = bucket.mesh, bucket.buffer
    bucket.settle()
    for parameter in bucket.parameters:
        parameter.leaf.away = True
    if bucket.owed:
        if wire is None:
            yield mesh.apart(*bucket.owed).iallreduce(buffer, out=buffer)
        else:
            total = yield mesh.apart(*bucket.owed).iallreduce(narrowed(bucket, buffer, wire))
            mesh.xp.copy_into(buffer, mesh.xp.cast(total, bucket.dtype))
    for parameter in bucket.parameters:
        parameter.leaf.moved(parameter.layout)


def scattered(bucket: Bucket, wire: DType | None) -> Moves:
    """Partial → Shard: one reduce_scatter; where more is owed an allreduce of the pieces follows."""
    mesh, carrier = bucket.mesh, bucket.carrier
    assert carrier is not None
    leaves = [parameter.leaf for parameter in bucket.parameters]
    flat = carrier.packed([leaf.arrived for leaf in leaves], bucket.dtype if wire is None else wire)
    for leaf in leaves:
        leaf.hand_over()
    comm = mesh.apart(*bucket.scattered)
    mine = yield comm.ireduce_scatter(flat, 0, carrier.sizes, dtype=bucket.dtype)
    if bucket.owed:
        total = yield mesh.apart(*bucket.owed).iallreduce(narrowed(bucket, mine, wire))
        mine = mesh.xp.cast(total, bucket.dtype)
    for parameter, piece in zip(bucket.parameters, carrier.pieces(mine), strict=True):
        parameter.leaf.receive(piece, target(parameter))


def narrowed(bucket: Bucket, x: Array, wire: DType | None) -> Array:
    """As it travels."""
    return x if wire is None else bucket.mesh.xp.cast(x, wire)
