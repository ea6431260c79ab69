"""The weights of the units of ZeRO 3: how they are gathered, and the memory that they share.

One unit is in the memory at a time and the one that is expected next is on its way. See `gathered.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from mpipar.backend import Array, DType
from mpipar.comm import Handle
from mpipar.errors import GraphError
from mpipar.layout import Layout, Replicate
from mpipar.layout.layout import shared
from mpipar.mesh import Mesh
from mpipar.nn.module import Module
from mpipar.nn.pieces import Carrier
from mpipar.tensor import Tensor, changes

if TYPE_CHECKING:
    from mpipar.parallel.gathered import Unit

Slot = tuple[Any, Any]  # a dict or list, and the key in it under which a module finds a weight


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

    def lend(self, unit: Unit, weights: Weights, g: Array, due: bool) -> Array:
        """Zeros of the dtype of the gradients: where the weights are still here, their memory, for they have served.

        Raises GraphError where they neither are nor were `due`: then backward has just run with those of another unit.
        """
        here = self.holds(unit) or self._lender is unit
        if not (here or due):
            raise GraphError(
                f"ZeRO 3: the backward of the module of {weights.parameters[0].name!r} ran without its weights. "
                "It must begin at the results of the module, and before the next change of weights"
            )
        if here:
            self._inside, self._lender = None, unit
        if not here or g.dtype != weights.dtype:  # gradients of 16-bit weights are float32
            return weights.mesh.xp.zeros((weights.size,), g.dtype)
        memory = self.memory[weights.kind][: weights.size]
        weights.mesh.xp.fill(memory, 0)
        return memory

    def holds(self, unit: Unit) -> bool:
        """Whether its weights are here, as they are now."""
        return self._inside is unit and self._when == changes.latest

    def call(self, unit: Unit) -> None:
        """The weights of a unit come in, for its forward."""
        last = self._last
        if last is not None and last.model == unit.model and last.place < unit.place:
            last.after, unit.before = unit, last  # this is the order of the model
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
