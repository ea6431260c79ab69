"""Recomputation: less memory for more arithmetic. Chen et al. 2016; selective: Korthikanti et al. 2022, section 5.

What a function needs for its gradient is not kept after the forward pass but made again when backward comes to it. The
second pass does what the first did, its collectives included, and dropout draws the same masks, which are a function of
the step and of the global index. So gradients are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from mpipar import ops
from mpipar.backend import Array
from mpipar.errors import GraphError
from mpipar.tensor import Tensor, tape
from mpipar.tensor.apply import apply

Function: TypeAlias = Callable[..., Tensor]


def checkpoint(f: Function, *tensors: Tensor, again: Function | None = None) -> Tensor:
    """``f(*tensors)``, of which only the arguments and the result are kept until backward, which calls f again.

    f may use weights (leaves) as it likes; every other tensor that requires a gradient is an argument of f. The second
    call must do what the first did, on all ranks. It may be another function, `again`, with the same gradients,
    whose result is not read.
    Raises GraphError where f uses a tensor that is no leaf and no argument.

    >>> import mpipar as mp
    >>> mesh = mp.Mesh(ranks=[0])
    >>> x = mp.tensor([1.0, 2.0], mesh, requires_grad=True)
    >>> checkpoint(lambda x: x.exp().square(), x).sum().backward()
    """
    if not tape.is_recording():
        return f(*tensors)
    uses: tape.Uses = []
    with tape.noting(uses):
        y = f(*(x.detach() for x in tensors))
    weights = _weights(uses)
    nodes = tuple(x.node for x in tensors)
    if not weights and not any(nodes):
        return y
    node = tape.Node("checkpoint", nodes, partial(_gradients, again or f, tensors, weights), y.local.shape)
    return Tensor(y.local, y.mesh, y.layout, node=node)


def product(
    x: Tensor, weight: Tensor, before: Function | None = None, weights: Sequence[Tensor] = ()
) -> Tensor:
    """``before(x).contract(weight)`` that does not keep before(x): for what costs little, a norm, a gather, a gate.

    The weight's gradient needs before(x), which is made again then; the product is not. Without `before` of x itself.
    `weights` are those that `before` uses. Where they are no leaves (gathered, under ZeRO 3) it gets them after x.
    """
    if before is None:
        return x.contract(weight)

    def again(x: Tensor, weight: Tensor = weight, *weights: Tensor) -> Tensor:
        return apply(ops.contract, before(x, *weights), weight, n=1, transposed=False, value=False)

    def now(x: Tensor, weight: Tensor = weight, *weights: Tensor) -> Tensor:
        return before(x, *weights).contract(weight)

    return checkpoint(now, x, *(() if weight.is_leaf else (weight, *weights)), again=again)


def _weights(uses: tape.Uses) -> list[Array]:
    """The arrays of the leaves that f uses: backward looks whether one was changed in between."""
    for name, x in uses:
        if not x.is_leaf:
            raise GraphError(
                f"checkpoint: {name!r} in the function uses {x.name or 'a tensor'} {x.layout}, which requires a "
                "gradient and is no leaf: make it an argument, as checkpoint(f, x, y)"
            )
    return list({id(x.node): x.local for _, x in uses}.values())


def _gradients(
    f: Function, tensors: Sequence[Tensor], weights: list[Array], g: Array
) -> tuple[Array | None, ...]:
    """Calls f once more, now on the tape, and goes back through it: weights get theirs, these are the arguments'."""
    arguments = [_cut_off(x) for x in tensors]
    with tape.recording():
        y = f(*arguments)
    if y.node is not None:
        tape.backward(y.node, g, y.mesh.xp, keep=False)
    return tuple(x.leaf.value if x.is_leaf else None for x in arguments)


def _cut_off(x: Tensor) -> Tensor:
    """The same values as a leaf of its own, if it requires a gradient."""
    if x.node is None:
        return x
    leaf = tape.Leaf(x.mesh.xp, x.layout.dual, x.name, x.local.shape)
    leaf.borrows = True
    return Tensor(x.local, x.mesh, x.layout, name=x.name, node=leaf)
