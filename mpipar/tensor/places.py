"""Tensors on parts of a mesh: seen from a smaller part, and sent from one part to another.

The gradient of what is sent comes back the same way, with the dual placement. The dual has the same local shape, so
each rank exchanges its piece with the rank that has its coordinates in the other part, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpipar.backend import Array
from mpipar.comm import Comm
from mpipar.errors import PlacementError
from mpipar.layout import Layout, Misfit, Placement, Replicate
from mpipar.tensor.apply import recorded
from mpipar.tensor.tape import Node, is_recording

if TYPE_CHECKING:
    from mpipar.mesh import Mesh
    from mpipar.tensor.tensor import Tensor


def at(x: Tensor, mesh: Mesh) -> Tensor:
    """The same values on a part of the mesh of x; x itself where that is its mesh. Local, both ways.

    x must be Replicate on the axes that the part narrows. There the gradient of x is Partial: each part owes its term.
    """
    if mesh is x.mesh:
        return x
    if mesh.whole is not x.mesh.whole or any(
        not set(mesh.places[axis]) <= set(x.mesh.places[axis]) for axis in mesh.shape
    ):
        raise PlacementError(f"at: {mesh.name} is no part of {x.mesh.name}, where {x.name or 'x'!r} is")
    for axis, size in x.mesh.shape.items():
        if mesh.shape[axis] != size and x.layout.placement(axis) != Replicate():
            raise PlacementError(
                f"at: {x.name or 'x'!r} {x.layout} is {x.layout.placement(axis)} on axis {axis!r}, of which "
                f"{mesh.name} has a part; write  x.redistribute({axis}=Replicate())  first"
            )
    layout = Layout(mesh.grid, x.layout.cuts, x.layout.partial)
    like = type(x)(x.local, mesh, layout)
    return recorded(like, x.local, layout, "at", (x,), (lambda g: g,))


def send_to(x: Tensor, mesh: Mesh) -> Tensor:
    """Sends my piece of x to the rank of another part that has my coordinates; there `receive` takes it. Blocking.

    What comes back is the scalar 0 that stands for what went away: its `backward` waits for the gradient that
    `receive` sends back, and goes on from x.
    """
    comm, to = route(x.mesh, mesh)
    comm.send(x.local, to)
    shape, dtype = tuple(x.local.shape), gradient_dtype(x.mesh, x.dtype)
    layout = Layout.make(x.mesh.grid, (), {})
    zero = x.mesh.xp.zeros((), x.dtype)
    return recorded(x, zero, layout, "send_to", (x,), (lambda g: comm.recv(shape, dtype, to),))


def receive(
    shape: tuple[int, ...], mesh: Mesh, source: Mesh, *, dtype: Any = "float32", requires_grad: bool = True,
    name: str = "", **placements: Placement,
) -> Tensor:  # fmt: skip
    """The tensor that `send_to` on the part `source` sends to `mesh`, my part; `shape` is global. Blocking.

    Shape, dtype and placements are those of what was sent. Backward sends the gradient back, so where a sender calls
    `backward`, a receiver's loss must depend on what came.
    """
    from mpipar.tensor.tensor import Tensor  # noqa: PLC0415  (which has `send_to` as a method)

    comm, sender = route(mesh, source)
    try:
        layout = Layout.make(mesh.grid, shape, placements)
    except Misfit as misfit:
        raise PlacementError(f"receive: {tuple(shape)} with {placements}: {misfit.reason}") from None
    here = layout.local_shape(mesh.coords)
    local = comm.recv(here, mesh.xp.dtype(dtype), sender)

    def send_back(g: Array) -> tuple[()]:
        comm.send(g, sender)
        return ()

    node = Node("receive", (), send_back, here) if requires_grad and is_recording() else None
    return Tensor(local, mesh, layout, name=name, node=node)


def route(mine: Mesh, other: Mesh) -> tuple[Comm, int]:
    """The communicator that joins two parts that differ in one coordinate, and my partner's rank in it."""
    whole = mine.whole
    differing = [axis for axis in mine.shape if mine.places[axis] != other.places.get(axis)]
    if other.whole is whole and len(differing) == 1:
        (axis,) = differing
        if mine.shape[axis] == other.shape[axis] == 1:
            return whole.comm(axis), other.places[axis][0]
    raise PlacementError(
        f"from {mine.name} to {other.name}: two parts of one mesh are wanted that differ in one coordinate, "
        "as mesh.at(pp=0) and mesh.at(pp=1)"
    )


def gradient_dtype(mesh: Mesh, dtype: Any) -> Any:
    """Of the gradient of a tensor: float32 where that is a 16-bit one."""
    return mesh.xp.widen(mesh.xp.empty((0,), dtype)).dtype
