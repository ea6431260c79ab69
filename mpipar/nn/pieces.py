"""The piece of a weight that this rank updates: laid out as its gradient is after sync.

Without ZeRO that is all that the rank holds of the weight. Under ZeRO 1 and 2 the gradient is cut once more
(`leaf.target`), and of the weight that is whole on this rank a part is updated here and the rest elsewhere.
"""

from __future__ import annotations

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.tensor import Tensor


def target(parameter: Tensor) -> Layout:
    """The layout of a parameter's gradient after sync, of its optimizer state, and of the piece that is updated."""
    return parameter.leaf.target or parameter.layout


def is_cut(parameter: Tensor) -> bool:
    """Whether other ranks update other pieces of what this rank holds."""
    return target(parameter) != parameter.layout


def piece(parameter: Tensor) -> Array:
    """The piece that this rank updates: a view of ``parameter.local``."""
    if not is_cut(parameter):
        return parameter.local
    coords, whole, mine = parameter.mesh.coords, parameter.layout, target(parameter)
    starts = [whole.piece(dim, coords).start for dim in range(whole.ndim)]
    parts = [mine.piece(dim, coords) for dim in range(mine.ndim)]
    return parameter.local[
        tuple(slice(part.start - start, part.stop - start) for part, start in zip(parts, starts, strict=True))
    ]
