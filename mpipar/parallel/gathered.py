"""Weights that are gathered where they are used: ZeRO 3.

A unit is a module that is called as a whole, a transformer block say. Its weights, each cut over the axes, come by one
allgather into memory that all units share, and the module is called with them. Nothing is freed one by one: the next
unit comes into the same memory. What the tape has kept of the weights are views of it, so at the end of the unit a node
on the tape gathers the weights there again before the unit's backward begins. Meanwhile the unit that comes next,
forward or backward, is on its way.

The vjp of the gather is the reduce_scatter: one for all weights of the unit.

A pipeline has units in each of its stages, and one memory for all of them. Micro-batches may be between forward and
backward in any number: each call has its own nodes on the tape. Where backward comes in two parts (zero bubble) the
weights are there for the first one, and the second one needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mpipar.backend import Array, DType
from mpipar.errors import UsageError
from mpipar.nn.module import Module
from mpipar.parallel.pool import Pool, Slot, Weights, is_cut_weight, slots, weights_of
from mpipar.tensor import Tensor
from mpipar.tensor.apply import recorded
from mpipar.tensor.tape import Node, is_recording, note_uses


def gather_at_use(models: Sequence[Module], axes: tuple[str, ...], wire: DType | None = None) -> None:
    """Makes a unit of every module that is an attribute of a model, or in a list or dict there. They share memory.

    Models are those that are called one after the other in any order: the stages of a pipeline.
    """
    pool = Pool()
    for number, model in enumerate(models):
        units_of(model, axes, wire, pool, number)


def units_of(model: Module, axes: tuple[str, ...], wire: DType | None, pool: Pool, number: int) -> None:
    for holder, key, value in slots(vars(model)):
        if isinstance(value, Module):
            weights = weights_of(value, axes, wire)
            holder[key] = Gathered(value, weights, pool, number) if weights else value
        elif is_cut_weight(value, axes):
            raise UsageError(
                f"ZeRO 3 gathers the weights of a module when it is called; {value.name!r} is one of the model itself: "
                "put it into a module of its own"
            )


class Unit:
    """What is called with its weights gathered, and its place in the order in which units are called."""

    def __init__(self, weights: list[Weights], pool: Pool, model: int) -> None:
        self.weights, self.pool, self.place, self.model = weights, pool, pool.units, model
        self.before: Unit | None = None
        self.after: Unit | None = None
        pool.joins(weights)

    def __call__(self, call: Any, args: tuple[Any, ...]) -> Any:
        self.pool.call(self)
        sent = [Gradients(self, weights) for weights in self.weights]
        with self._whole(sent):
            y = call(*args)
        closed = partial(self._closed, sent)
        return tuple(map(closed, y)) if isinstance(y, tuple) else closed(y)

    @contextmanager
    def _whole(self, sent: list[Gradients]) -> Iterator[None]:
        """The module finds whole weights where its pieces were."""
        self.pool.called = True
        try:
            for weights, tensors in zip(self.weights, self._tensors(sent), strict=True):
                put(weights.slots, tensors)
            yield
        finally:
            for weights in self.weights:
                put(weights.slots, weights.parameters)
            self.pool.called = False

    def _tensors(self, sent: list[Gradients]) -> list[list[Tensor]]:
        """The whole weights of each kind. On the tape the gathers come before all of them, so backward after."""
        nodes = [each.node() for each in sent]
        return [
            [
                Tensor(view, weights.mesh, layout, name=parameter.name, node=each.whole(node, k, view.shape))
                for k, (view, layout, parameter) in enumerate(
                    zip(self.pool.views(weights), weights.layouts, weights.parameters, strict=True)
                )
            ]
            for each, node, weights in zip(sent, nodes, self.weights, strict=True)
        ]

    def _closed(self, sent: list[Gradients], y: Tensor) -> Tensor:
        """The result, which lies in no weight's memory, with the node that gathers again on the way back."""
        xp = y.mesh.xp
        first, last = xp.addresses(y.local)
        lent = [xp.addresses(memory) for (mesh, _), memory in self.pool.memory.items() if mesh.xp is xp]
        if any(start < last and first < stop for start, stop in lent):
            y = y.clone()
        return recorded(y, y.local, y.layout, "gather again", (y,), (partial(self._again, sent),))

    def _again(self, sent: list[Gradients], g: Array) -> Array:
        self.pool.call_again(self)
        for each in sent:
            each.due = True
        return g


def put(slots: list[list[Slot]], tensors: list[Tensor]) -> None:
    for places, tensor in zip(slots, tensors, strict=True):
        for holder, key in places:
            holder[key] = tensor


class Gradients:
    """The gradients of one call's weights, in one array as they are sent.

    When the first of them is asked for, the backward of the unit is over: so they take the place of the weights.
    """

    def __init__(self, unit: Unit, weights: Weights) -> None:
        self._unit, self._weights = unit, weights
        self._flat: Array | None = None
        self.due = False  # the weights have come for the backward

    def node(self) -> Node | None:
        """Of the gather itself."""
        if not is_recording():
            note_uses("gather", self._weights.parameters)
            return None
        pieces = tuple(
            p.local for p in self._weights.parameters
        )  # a change of them before backward is noticed
        leaves = tuple(p.node for p in self._weights.parameters)
        return Node("gather", leaves, partial(self.scattered, pieces), (self._weights.size,))

    def whole(self, node: Node | None, k: int, shape: tuple[int, ...]) -> Node | None:
        """Of weight k in what was gathered."""
        return None if node is None else Node("gather", (node,), (partial(self.add, k),), shape)

    def add(self, k: int, g: Array) -> Array | None:
        """Puts that of weight k in its places. The first one hands the array on, to be sent when all are in."""
        first = self._flat is None
        if self._flat is None:
            self._flat = self._unit.pool.lend(self._unit, self._weights, g, self.due)
        self._weights.carrier.put(k, g, self._flat)
        return self._flat if first else None

    def scattered(self, pieces: tuple[Array, ...], flat: Array) -> tuple[Array, ...]:
        """The sums over the axes, of which each rank takes its pieces."""
        self._flat, self.due, weights = None, False, self._weights
        sent = flat if weights.wire is None else weights.mesh.xp.cast(flat, weights.wire)
        comm = weights.mesh.comm(*weights.axes)
        mine = comm.reduce_scatter(sent, 0, weights.carrier.sizes, dtype=flat.dtype)
        return tuple(weights.carrier.pieces(mine))


class Gathered(Module):
    """A module whose weights are whole while it is called. Its parameters are the pieces, under their names."""

    def __init__(self, module: Module, weights: list[Weights], pool: Pool, model: int) -> None:
        self.module: Any = module
        self._weights, self._pool, self._model = weights, pool, model
        self._unit = Unit(weights, pool, model)
        self._head: Unit | None = None

    def __call__(self, *args: Any) -> Any:
        return self._unit(self.module, args)

    def logits(self, *args: Any) -> Any:
        """Of an embedding: the head that is tied to it, which is called at another place in the model."""
        return self._at_head(self.module.logits, args)

    def cross_entropy(self, *args: Any) -> Any:
        """Of a head, tied or not, with its loss."""
        return self._at_head(self.module.cross_entropy, args)

    def _at_head(self, call: Any, args: tuple[Any, ...]) -> Any:
        self._head = self._head or Unit(self._weights, self._pool, self._model)
        return self._head(call, args)
