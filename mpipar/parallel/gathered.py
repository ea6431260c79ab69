"""Weights that are gathered where they are used: ZeRO 3.

A unit is a module that is called as a whole, a transformer block say. Its weights, each cut over the axes, come by one
allgather into memory that all units share, and the module is called with them. Nothing is freed one by one: the next
unit comes into the same memory. What the tape has kept of the weights are views of it, so at the end of the unit a node
on the tape gathers the weights there again before the unit's backward begins. Meanwhile the unit that comes next,
forward or backward, is on its way.

The vjp of the gather is the reduce_scatter: one for all weights of the unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

from mpipar.backend import Array, DType
from mpipar.comm import Handle
from mpipar.errors import GraphError, UsageError
from mpipar.layout import Layout, Replicate
from mpipar.layout.layout import shared
from mpipar.mesh import Mesh
from mpipar.nn.module import Module
from mpipar.nn.pieces import Carrier
from mpipar.tensor import Tensor, changes
from mpipar.tensor.apply import recorded
from mpipar.tensor.tape import Node, is_recording

Slot = tuple[Any, Any]  # a dict or list, and the key in it under which a module finds a weight


def gather_at_use(model: Module, axes: tuple[str, ...], wire: DType | None = None) -> None:
    """Makes a unit of every module that is an attribute of the model, or in a list or dict there."""
    pool = Pool()
    for holder, key, value in slots(vars(model)):
        if isinstance(value, Module):
            weights = weights_of(value, axes, wire)
            holder[key] = Gathered(value, weights, pool) if weights else value
        elif is_cut_weight(value, axes):
            raise UsageError(
                f"ZeRO 3 gathers the weights of a module when it is called; {value.name!r} is one of the model itself: "
                "put it into a module of its own"
            )


def slots(holder: Any) -> Iterator[tuple[Any, Any, Any]]:
    """What is in a dict or list, and in those within it: where, under which key, and what."""
    for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        if isinstance(value, (list, dict)):
            yield from slots(value)
        yield holder, key, value


def is_cut_weight(value: object, axes: tuple[str, ...]) -> bool:
    return isinstance(value, Tensor) and value.is_leaf and set(axes) <= value.layout.cut_dims.keys()


class Weights:
    """The weights of a module that are on one mesh and of one dtype: they travel together."""

    def __init__(
        self, found: list[tuple[Tensor, list[Slot]]], axes: tuple[str, ...], wire: DType | None
    ) -> None:
        self.parameters, self.slots = [each for each, _ in found], [slots for _, slots in found]
        self.mesh, self.dtype = self.parameters[0].mesh, self.parameters[0].dtype
        self.axes, self.wire = axes, wire
        self.layouts = [without(parameter.layout, axes) for parameter in self.parameters]
        self.carrier = Carrier(self.mesh, axes, self.layouts, [p.layout for p in self.parameters])
        self.size = sum(self.carrier.sizes)

    @property
    def kind(self) -> tuple[Mesh, str]:
        return self.mesh, str(self.dtype)

    def start(self) -> Handle:
        """My pieces to the others, theirs to me."""
        mine = self.carrier.joined([parameter.local for parameter in self.parameters])
        return self.mesh.comm(*self.axes).iallgather(mine, 0, self.carrier.sizes)

    def views(self, memory: Array) -> list[Array]:
        """The whole weights, one after the other in memory."""
        shapes = self.carrier.shapes
        starts = accumulate(map(prod, shapes), initial=0)
        return [
            memory[first:last].reshape(shape)
            for (first, last), shape in zip(pairwise(starts), shapes, strict=True)
        ]


def weights_of(module: Module, axes: tuple[str, ...], wire: DType | None) -> list[Weights]:
    """The weights of a module and of those in it that are cut over the axes, by mesh and dtype."""
    kinds: dict[tuple[Mesh, str], dict[int, tuple[Tensor, list[Slot]]]] = {}
    for each in module.modules():
        for holder, key, value in slots(vars(each)):
            if is_cut_weight(value, axes):
                kind = value.mesh, str(value.dtype)
                kinds.setdefault(kind, {}).setdefault(id(value), (value, []))[1].append((holder, key))
    return [Weights(list(found.values()), axes, wire) for found in kinds.values()]


def without(layout: Layout, axes: tuple[str, ...]) -> Layout:
    """The layout of what is gathered."""
    for axis in reversed(axes):
        layout = layout.placed(axis, Replicate())
    return shared(layout)


class Pool:
    """The memory that gathered weights share: which unit is in it, and which is on its way."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[Mesh, str], int] = {}
        self.memory: dict[tuple[Mesh, str], Array] = {}
        self.units = 0
        self.called = False  # a unit is being called
        self._inside: Unit | None = None
        self._when = -1  # the last change in place before it left
        self._lender: Unit | None = None  # whose weights have made room for their gradients
        self._coming: Coming | None = None
        self._last: Unit | None = None  # the one that was called last

    def joins(self, weights: list[Weights]) -> None:
        """One more unit: the memory must hold the largest."""
        self.units += 1
        for each in weights:
            self.sizes[each.kind] = max(self.sizes.get(each.kind, 0), each.size)

    def views(self, weights: Weights) -> list[Array]:
        """Where its weights are, while its unit is inside."""
        kind = weights.kind
        if kind not in self.memory:
            self.memory[kind] = weights.mesh.xp.empty((self.sizes[kind],), weights.dtype)
        return weights.views(self.memory[kind])

    def lend(self, unit: Unit, weights: Weights, g: Array) -> Array:
        """The memory of weights that are no longer needed, as zeros of the dtype of their gradients.

        Raises GraphError where it does not hold them: then backward has just run with those of another unit.
        """
        if not (self.holds(unit) or self._lender is unit):
            raise GraphError(
                f"ZeRO 3: the backward of the module of {weights.parameters[0].name!r} ran without its weights. "
                "It must begin at the results of the module, and before the next change of weights"
            )
        self._inside, self._lender = None, unit
        if g.dtype != weights.dtype:  # gradients of 16-bit weights are float32
            return weights.mesh.xp.zeros((weights.size,), g.dtype)
        memory = self.memory[weights.kind][: weights.size]
        weights.mesh.xp.fill(memory, 0)
        return memory

    def holds(self, unit: Unit) -> bool:
        """Whether its weights are here, as they are now."""
        return self._inside is unit and self._when == changes.latest

    def call(self, unit: Unit) -> None:
        """The weights of a unit come in, for its forward."""
        if self._last is not None and self._last.place < unit.place:
            self._last.after, unit.before = unit, self._last  # this is the order of the model
        self._last = unit
        inside = self._inside or self._lender
        again = inside is not None and unit.before is not None and unit.place < inside.place
        self._bring(unit, unit.before if again else unit.after)  # again: a recomputation, on the way back

    def call_again(self, unit: Unit) -> None:
        """They come in again, for its backward."""
        self._bring(unit, unit.before)

    def _bring(self, unit: Unit, then: Unit | None) -> None:
        if self.called:
            raise GraphError("ZeRO 3: a module whose weights are gathered is called within another one")
        if not self.holds(unit):
            self._when, handles = changes.latest, self._handles(unit)
            for weights, handle in zip(unit.weights, handles, strict=True):
                flat = handle.wait()
                for k, view in enumerate(self.views(weights)):
                    weights.carrier.take(k, flat, view)
            self._inside, self._lender = unit, None
        if then is not None and not (self._coming is not None and self._coming.is_now(then)):
            self._drop()
            self._coming = Coming(then, changes.latest, [weights.start() for weights in then.weights])

    def _handles(self, unit: Unit) -> list[Handle]:
        coming = self._coming
        if coming is not None and coming.is_now(unit):
            self._coming = None
            return coming.handles
        self._drop()
        return [weights.start() for weights in unit.weights]

    def _drop(self) -> None:
        """What came for nothing: another unit was called than the last time, or weights have changed since."""
        for handle in self._coming.handles if self._coming is not None else ():
            handle.wait()
        self._coming = None


class Coming(NamedTuple):
    """A unit on its way, with its weights as they were at that time."""

    unit: Unit
    when: int
    handles: list[Handle]

    def is_now(self, unit: Unit) -> bool:
        return self.unit is unit and self.when == changes.latest


class Unit:
    """What is called with its weights gathered, and its place in the order in which units are called."""

    def __init__(self, weights: list[Weights], pool: Pool) -> None:
        self.weights, self.pool, self.place = weights, pool, pool.units
        self.before: Unit | None = None
        self.after: Unit | None = None
        pool.joins(weights)

    def __call__(self, call: Any, args: tuple[Any, ...]) -> Any:
        self.pool.call(self)
        with self._whole():
            y = call(*args)
        return tuple(map(self._closed, y)) if isinstance(y, tuple) else self._closed(y)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """The module finds whole weights where its pieces were."""
        self.pool.called = True
        try:
            for weights, tensors in zip(self.weights, self._tensors(), strict=True):
                put(weights.slots, tensors)
            yield
        finally:
            for weights in self.weights:
                put(weights.slots, weights.parameters)
            self.pool.called = False

    def _tensors(self) -> list[list[Tensor]]:
        """The whole weights of each kind. On the tape the gathers come before all of them, so backward after."""
        sent = [Gradients(self, weights) for weights in self.weights]
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

    def _closed(self, y: Tensor) -> Tensor:
        """The result, which lies in no weight's memory, with the node that gathers again on the way back."""
        xp = y.mesh.xp
        first, last = xp.addresses(y.local)
        lent = [xp.addresses(memory) for (mesh, _), memory in self.pool.memory.items() if mesh is y.mesh]
        if any(start < last and first < stop for start, stop in lent):
            y = y.clone()
        return recorded(y, y.local, y.layout, "gather again", (y,), (self._again,))

    def _again(self, g: Array) -> Array:
        self.pool.call_again(self)
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

    def node(self) -> Node | None:
        """Of the gather itself."""
        if not is_recording():
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
            self._flat = self._unit.pool.lend(self._unit, self._weights, g)
        self._weights.carrier.put(k, g, self._flat)
        return self._flat if first else None

    def scattered(self, pieces: tuple[Array, ...], flat: Array) -> tuple[Array, ...]:
        """The sums over the axes, of which each rank takes its pieces."""
        self._flat, weights = None, self._weights
        sent = flat if weights.wire is None else weights.mesh.xp.cast(flat, weights.wire)
        comm = weights.mesh.comm(*weights.axes)
        mine = comm.reduce_scatter(sent, 0, weights.carrier.sizes, dtype=flat.dtype)
        return tuple(weights.carrier.pieces(mine))


class Gathered(Module):
    """A module whose weights are whole while it is called. Its parameters are the pieces, under their names."""

    def __init__(self, module: Module, weights: list[Weights], pool: Pool) -> None:
        self.module: Any = module
        self._weights, self._pool = weights, pool
        self._unit = Unit(weights, pool)
        self._head: Unit | None = None

    def __call__(self, *args: Any) -> Any:
        return self._unit(self.module, args)

    def logits(self, *args: Any) -> Any:
        """Of an embedding: the head that is tied to it, which is called at another place in the model."""
        self._head = self._head or Unit(self._weights, self._pool)
        return self._head(self.module.logits, args)
