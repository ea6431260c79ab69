"""Clipping by the norm of all gradients together, each piece counted once under every layout."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from mpipar.errors import GraphError
from mpipar.layout import Layout
from mpipar.tensor import Tensor


def clip_grad_norm(parameters: Sequence[Tensor], max_norm: float, *, scale: float = 1.0) -> Tensor:
    """Scales the gradients so that their norm, all together, is at most `max_norm` (0: leaves them); returns the norm.

    Gradients of a loss that was multiplied by `scale` are divided by it as well, and the norm is that of the quotients.

    The norm is a Replicate float64 scalar; it was taken before the scaling. A rank counts a gradient if
    it is the first on all axes where that is Replicate. One allreduce of one number over the mesh. Pascanu et al. 2013.
    Raises GraphError on a gradient that is still Partial.
    """
    mesh = parameters[0].mesh.whole  # in a pipeline weights are on parts of it
    found = [(p, p.leaf.value) for p in parameters]
    xp = mesh.xp
    total = xp.zeros((), "float64")
    for p, grad in found:
        layout = p.leaf.layout
        if layout.partial:
            raise GraphError(
                f"clip_grad_norm: the gradient of {p.name!r} is {layout}: call sync_gradients(model) first"
            )
        if grad is not None and layout.is_first(p.mesh.coords):
            total = total + xp.square_sum(grad)
    norm = xp.sqrt(mesh.world.allreduce(xp.as_array(total))) / scale
    if max_norm or scale != 1:
        factor = xp.full((), 1 / scale, "float64")
        if max_norm:
            factor = factor * xp.minimum(max_norm / (norm + 1e-6), 1.0)
        factor = xp.where(norm < inf, factor, 1.0)  # nothing is left to clip; 0·inf would be one more NaN
        for _, grad in found:
            if grad is not None:
                xp.scale_into(grad, factor)
    return Tensor(xp.as_array(norm), mesh, Layout.make(mesh.grid, (), {}), name="gradient norm")
