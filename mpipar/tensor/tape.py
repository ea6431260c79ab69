"""Reverse mode over closures.

Each differentiable result has a Node that was numbered when it was made; backward visits nodes from the highest
number down, so the order is the order of creation reversed: the same on all ranks. A node is freed as soon
as its vjp has run. Gradients travel as bare local arrays: their layout is the dual of the value's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias, final

from mpipar.backend import Array, Backend
from mpipar.errors import GraphError
from mpipar.layout import Layout
from mpipar.ops.base import Gradient, Vjps
from mpipar.ops.unmade import Unmade
from mpipar.tensor import changes

if TYPE_CHECKING:
    from mpipar.tensor.tensor import Tensor

Uses = list[tuple[str, "Tensor"]]  # names of operations, and operands of theirs that require a gradient

_recording = True
_uses: Uses | None = None  # where what is not recorded is noted


@contextmanager
def _mode(recording: bool, uses: Uses | None = None) -> Iterator[None]:
    global _recording, _uses
    before, _recording, _uses = (_recording, _uses), recording, uses
    try:
        yield
    finally:
        _recording, _uses = before


def no_grad() -> AbstractContextManager[None]:
    """Inside the block nothing is recorded: results do not require gradients."""
    return _mode(False)


def recording() -> AbstractContextManager[None]:
    """Inside the block operations are recorded, within `no_grad` too."""
    return _mode(True)


def noting(uses: Uses) -> AbstractContextManager[None]:
    """As `no_grad`; every use of a tensor that requires a gradient is added to the list."""
    return _mode(False, uses)


def is_recording() -> bool:
    return _recording


def note_uses(name: str, operands: Sequence[Tensor]) -> None:
    """To be called where an operation on operands that require a gradient is not recorded."""
    if _uses is not None:
        _uses.extend((name, x) for x in operands if x.node is not None)


@final
class Node:
    """One recorded operation: where its operands come from and how a gradient goes back to them."""

    __slots__ = ("name", "number", "operands", "shape", "vjps")

    def __init__(
        self, name: str, operands: Sequence[Node | Leaf | None], vjps: Vjps, shape: tuple[int, ...]
    ) -> None:
        self.name, self.operands, self.shape = name, operands, shape
        self.vjps: Vjps | None = vjps
        self.number = next(changes.numbers)
        for operand in operands:
            if type(operand) is Leaf:
                operand.uses += 1


class Watch(Protocol):
    """Who wants to know when the gradient of a leaf is complete."""

    def arrived(self, leaf: Leaf) -> None: ...


@final
class Leaf:
    """Where gradients arrive and stay: the end of the tape at a parameter or an input.

    They are added in place, into the buffer that was given (`adopt`) or into one of the leaf's own; one that is not
    made yet is made there. A sync then moves the sum: in that buffer (`moved`), or away from it and back as a piece
    (`hand_over`, `receive`).
    """

    __slots__ = (
        "_empty", "away", "borrows", "buffer", "home", "keeps_pieces", "layout", "name", "shape", "synced", "target",
        "uses", "wanted", "watch", "xp",
    )  # fmt: skip

    def __init__(self, xp: Backend, wanted: Layout, name: str, shape: tuple[int, ...]) -> None:
        self.xp, self.name, self.shape = xp, name, shape
        self.wanted = wanted  # the dual of the value's layout
        self.layout = wanted
        self.target: Layout | None = None  # where sync moves it to; None: to the layout of the value
        self.keeps_pieces = False  # further gradients may come after a sync: their pieces add up (ZeRO 2)
        self.buffer: Array | None = None
        self.borrows = False  # a gradient that comes is kept without a copy, and never changed
        self.synced: Array | None = None  # the piece that sync brought
        self.home: Any = None  # the bucket that it is synced with, if any
        self.watch: Watch | None = None
        self.uses = 0  # operations that were recorded and whose gradients have not arrived
        self.away = False  # a sync is under way: nothing may be added
        self._empty = True

    def deposit(self, g: Gradient) -> None:
        """Adds a gradient. Raises GraphError where the sum has been moved already, or is being moved."""
        if self.away or (self.layout != self.wanted and not self.keeps_pieces):
            raise GraphError(
                f"backward after sync: the gradient of {self.name or 'a tensor'!r} is {self.layout} "
                f"{'and on its way' if self.away else 'already'}, what comes in is {self.wanted}. "
                "Call optimizer.step() between, or sync after the last backward"
            )
        self.layout = self.wanted
        self._put(g)
        self._empty = False
        if self.uses:
            self.uses -= 1
        if not self.uses and self.watch is not None:
            self.watch.arrived(self)

    def _put(self, g: Gradient) -> None:
        xp, buffer = self.xp, self.buffer
        if isinstance(g, Unmade):
            if buffer is not None and g.dtype == buffer.dtype and not self.borrows:
                (g.write_to if self._empty else g.add_to)(buffer)
                return
            g = g.made()
            if buffer is None:
                self.buffer = g
                return
        if self.borrows:
            self.buffer = g if self._empty else xp.as_array(buffer + g)
        elif buffer is None:
            self.buffer = xp.copy(g)
        elif self._empty:
            xp.copy_into(buffer, g)
        else:
            xp.add_into(buffer, g)

    def adopt(self, buffer: Array) -> None:
        """Gradients go into this contiguous array from now on; what has arrived moves there, nothing means zeros."""
        if self._empty or self.buffer is None:
            self.xp.fill(buffer, 0)
        else:
            self.xp.copy_into(buffer, self.buffer)
        self.buffer, self.borrows = buffer, False

    def settle(self) -> None:
        """Zeros where nothing has arrived, so that every rank has the same list to sync."""
        if self._empty and self.buffer is not None:
            self.xp.fill(self.buffer, 0)
            self._empty = False

    def moved(self, layout: Layout) -> None:
        """The buffer's content has been moved to `layout`."""
        self.layout, self.away = layout, False

    def hand_over(self) -> None:
        """What has arrived was copied to where it is sent from; a piece comes back."""
        self._empty, self.away = True, not self.keeps_pieces
        if self.keeps_pieces:
            self.buffer = None

    def receive(self, piece: Array, layout: Layout) -> None:
        """The piece of the sum that a sync brought; those of several syncs add up."""
        if self.synced is None:
            self.synced = piece
        else:
            self.xp.add_into(self.synced, piece)
        self.away = False
        if self._empty:
            self.layout = layout

    def clear(self) -> None:
        """Ready for the next step; the buffer stays."""
        self.layout, self._empty, self.synced, self.uses = self.wanted, True, None, 0

    @property
    def arrived(self) -> Array | None:
        """What has arrived since the last sync."""
        return None if self._empty else self.buffer

    @property
    def value(self) -> Array | None:
        """The gradient, in the layout that it has now."""
        return self.synced if self.synced is not None and self.layout != self.wanted else self.arrived


def backward(root: Node | Leaf, seed: Array, xp: Backend, keep: bool) -> None:
    """Runs the tape from `root` down, `seed` being the gradient there."""
    if isinstance(root, Leaf):
        root.deposit(seed)
        return
    sweep({root.number: (root, seed, False)}, xp, keep)


Pending: TypeAlias = dict[int, tuple[Node, Array, bool]]  # by number, with the gradient; True: made here


def sweep(pending: Pending, xp: Backend, keep: bool) -> None:
    """Runs the tape from these nodes down."""
    order = [-number for number in pending]
    heapify(order)
    while order:
        node, g, _ = pending.pop(-heappop(order))
        if node.number < changes.latest:
            changes.check(node, xp)
        vjps = node.vjps or freed(node)
        at_once = callable(vjps)
        found: Any  # a gradient, or a vjp that gives it
        for operand, found in zip(node.operands, vjps(g) if callable(vjps) else vjps, strict=True):
            if operand is None or found is None:
                continue
            gradient = found if at_once else found(g)
            if gradient is None:
                continue
            if gradient.shape != operand.shape:
                raise misshapen(node, operand, gradient)
            if type(operand) is Leaf:
                operand.deposit(gradient)
            elif arrived(pending, operand, gradient, xp):
                heappush(order, -operand.number)
        found = gradient = None  # what they hold is free before the next vjp runs
        if not keep:
            node.vjps, node.operands = None, ()


def arrived(pending: Pending, node: Node, gradient: Gradient, xp: Backend) -> bool:
    """Adds a gradient to what has arrived at a node; only what was made here is changed in place. True: the first."""
    ours = isinstance(gradient, Unmade)
    if ours:
        gradient = gradient.made()
    found = pending.get(node.number)
    if found is None:
        pending[node.number] = (node, gradient, ours)
        return True
    if found[2]:
        xp.add_into(found[1], gradient)
    elif ours and gradient.dtype == found[1].dtype:
        xp.add_into(gradient, found[1])
        pending[node.number] = (node, gradient, True)
    else:
        pending[node.number] = (node, xp.as_array(xp.add(found[1], gradient)), True)
    return False


def freed(node: Node) -> NoReturn:
    raise GraphError(
        f"backward through {node.name!r} a second time: its graph was freed. "
        "Write backward(keep=True) the first time"
    )


def misshapen(node: Node, operand: Node | Leaf, gradient: Gradient) -> GraphError:
    return GraphError(
        f"the vjp of {node.name!r} gave a gradient of {gradient.shape} for an operand that is {operand.shape} here"
    )
