"""What the tape holds: the bytes of all arrays that gradients still need."""

from __future__ import annotations

from typing import Any

from mpipar import Tensor
from mpipar.tensor.changes import kept_arrays
from mpipar.tensor.tape import Node


def kept_bytes(root: Tensor, *without: Tensor) -> int:
    """Of the graph below a tensor; memory that several nodes keep counts once, that of `without` not at all."""
    nodes, waiting = set(), [root.node]
    memory: dict[int, int] = {}
    while waiting:
        node = waiting.pop()
        if isinstance(node, Node) and node not in nodes:
            nodes.add(node)
            waiting += node.operands
            for array in kept_arrays(node.vjps):
                whole = _owner(array)
                memory[id(whole)] = whole.nbytes
    for x in without:
        memory.pop(id(_owner(x.local)), None)
    return sum(memory.values())


def _owner(x: Any) -> Any:
    """The array of whose memory this is a view."""
    while getattr(x, "base", None) is not None and hasattr(x.base, "nbytes"):
        x = x.base
    return x
