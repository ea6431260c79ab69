"""Backward in two parts: first the gradients of inputs, for which others wait; later those of weights.

A pipeline's stage owes its input's gradient to the stage before, its weights' to nobody until the step ends
(Qi et al. 2023, "Zero Bubble Pipeline Parallelism"). What is left for later is a subgraph: all that only weights
depend on, with the moves in it, in the order of creation reversed as ever, so alike on all ranks.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush

from mpipar.backend import Array, Backend
from mpipar.tensor import changes
from mpipar.tensor.tape import Leaf, Node, Pending, arrived, gradients_of, sweep


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

    An operation that gives all its gradients at once (a norm, say) does so now; its leaves get theirs at once.
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
        now = [
            operand in inputs or (type(operand) is Node and operand.number in needed)
            for operand in node.operands
        ]
        for operand, gradient, is_now in zip(node.operands, _early(node, g, now), now, strict=True):
            if operand is None or gradient is None:
                continue
            if isinstance(operand, Leaf):
                operand.deposit(gradient)
            elif is_now:
                if operand.number not in pending:
                    heappush(order, -operand.number)
                arrived(pending, operand, gradient, xp)
            else:
                arrived(later.pending, operand, gradient, xp)
        _leave(node, g, now, later)
    return later


def _early(node: Node, g: Array, now: list[bool]) -> list[Array | None]:
    """The gradients of the operands that are needed now, or of all where one function gives them."""
    vjps = node.vjps
    if vjps is None or callable(vjps):
        return list(gradients_of(node, g))
    return [vjp(g) if is_now and vjp else None for vjp, is_now in zip(vjps, now, strict=True)]


def _leave(node: Node, g: Array, now: list[bool], later: Deferred) -> None:
    """Frees what is done of a node; where some of its operands wait, they stay, with the gradient that they need."""
    vjps = node.vjps
    left = [operand is not None and not is_now for operand, is_now in zip(node.operands, now, strict=True)]
    if vjps is None or callable(vjps) or not any(left):
        node.vjps, node.operands = None, ()
        return
    node.operands = tuple(
        operand if stays else None for operand, stays in zip(node.operands, left, strict=True)
    )
    node.vjps = tuple(vjp if stays else None for vjp, stays in zip(vjps, left, strict=True))
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
