"""Backward in two parts: first the gradients of inputs, for which others wait; later those of weights.

A pipeline's stage owes its input's gradient to the stage before, its weights' to nobody until the step ends
(Qi et al. 2023, "Zero Bubble Pipeline Parallelism"). What is left for later is a subgraph: all that only weights
depend on, with the moves in it, in the order of creation reversed as ever, so alike on all ranks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from heapq import heappop, heappush

from mpipar.backend import Array, Backend
from mpipar.ops.base import Gradient, Vjp
from mpipar.ops.unmade import Unmade
from mpipar.tensor import changes
from mpipar.tensor.tape import Leaf, Node, Pending, arrived, freed, sweep


class Deferred:
    """The part of a backward pass that is left to do; `run` does it, once."""

    def __init__(self, xp: Backend) -> None:
        self._xp = xp
        self.pending: Pending = {}

    def run(self) -> None:
        """Adds the gradients that are left to their leaves."""
        pending, self.pending = self.pending, {}
        sweep(pending, self._xp, keep=False)


def backward_input(root: Node | Leaf, seed: Array, xp: Backend, inputs: Collection[Leaf]) -> Deferred:
    """Runs the tape from `root` as far as the gradients of `inputs` need it, and frees what is done.

    An operation that gives all its gradients at once (a norm, say) does so now; its leaves get theirs at once, but for
    those that are not made yet.
    """
    later = Deferred(xp)
    if isinstance(root, Leaf):
        root.deposit(seed)
        return later
    needed = leading(root, inputs)
    if root.number not in needed:
        later.pending[root.number] = (root, seed, False)
        return later
    pending: Pending = {root.number: (root, seed, False)}
    order = [-root.number]
    while order:
        node, g, _ = pending.pop(-heappop(order))
        if node.number < changes.latest:
            changes.check(node, xp)
        wait: list[Vjp | None] = []
        for operand, vjp, can_wait in zip(node.operands, *_each(node, g), strict=True):
            is_now = operand in inputs or (type(operand) is Node and operand.number in needed)
            waits = can_wait and not is_now and operand is not None
            wait.append(vjp if waits else None)
            gradient = None if waits or operand is None or vjp is None else vjp(g)
            if operand is None or gradient is None:
                continue
            if isinstance(operand, Leaf):
                operand.deposit(gradient)
            elif not is_now:
                arrived(later.pending, operand, gradient, xp)
            elif arrived(pending, operand, gradient, xp):
                heappush(order, -operand.number)
        _leave(node, g, wait, later)
    return later


def _each(node: Node, g: Array) -> tuple[Sequence[Vjp | None], list[bool]]:
    """A vjp for each operand, and whether it can wait: what one function gives at once is here, made or not."""
    vjps = node.vjps or freed(node)
    if not callable(vjps):
        return vjps, [True] * len(vjps)
    found = vjps(g)
    return [partial(_given, x) for x in found], [isinstance(x, Unmade) for x in found]


def _given(gradient: Gradient | None, g: Array) -> Gradient | None:
    return gradient


def _leave(node: Node, g: Array, wait: list[Vjp | None], later: Deferred) -> None:
    """Frees what is done of a node; operands whose vjps wait stay, with the gradient that they need."""
    if not any(wait):
        node.vjps, node.operands = None, ()
        return
    node.operands = tuple(operand if vjp else None for operand, vjp in zip(node.operands, wait, strict=True))
    node.vjps = tuple(wait)
    later.pending[node.number] = (node, g, False)


def leading(root: Node, inputs: Collection[Leaf]) -> set[int]:
    """The numbers of the nodes whose value depends on an input, or on data that has no gradient.

    The latter lets the first stage, whose tokens have none, be split as the others are: its activations' gradients now.
    """
    nodes = {root.number: root}
    waiting = [root]
    while waiting:
        for operand in waiting.pop().operands:
            if isinstance(operand, Node) and operand.number not in nodes:
                nodes[operand.number] = operand
                waiting.append(operand)
    found: set[int] = set()
    for number in sorted(nodes):  # operands before what is made of them
        operands = nodes[number].operands
        if any(o is None or o in inputs or (isinstance(o, Node) and o.number in found) for o in operands):
            found.add(number)
    return found
