"""The piece of a weight that this rank updates, and the flat array in which the pieces of many weights travel.

The piece is laid out as the gradient is after sync. Without ZeRO that is all that the rank holds of the weight. Under
ZeRO 1 and 2 the gradient is cut once more (`leaf.target`): of the weight that is whole on this rank a part is updated
here and the rest elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod

from mpipar.backend import Array, DType
from mpipar.blocks import offsets
from mpipar.comm.scheme import along, with_length
from mpipar.layout import Layout
from mpipar.mesh import Mesh
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
    return parameter.local[piece_index(parameter.layout, target(parameter), parameter.mesh.coords)]


def piece_index(whole: Layout, cut: Layout, coords: tuple[int, ...]) -> tuple[slice, ...]:
    """Where what a rank holds by `cut` lies within what it holds by `whole`."""
    starts = [whole.piece(dim, coords).start for dim in range(whole.ndim)]
    parts = [cut.piece(dim, coords) for dim in range(cut.ndim)]
    return tuple(
        slice(part.start - start, part.stop - start) for part, start in zip(parts, starts, strict=True)
    )


class Carrier:
    """Pieces of several arrays in one flat array, for each rank of some axes its piece of every one.

    So one allgather or reduce_scatter serves all of them. `whole` are the layouts without the cut by the axes, `cut`
    those with it; a dim need not divide, and pieces may be empty.
    """

    def __init__(
        self, mesh: Mesh, axes: tuple[str, ...], whole: Sequence[Layout], cut: Sequence[Layout]
    ) -> None:
        self.mesh, self.axes = mesh, axes
        self.shapes = [layout.local_shape(mesh.coords) for layout in whole]
        self.dims = [layout.cut_dims[axes[-1]] for layout in cut]
        starts = [
            offsets(layout.sizes(axes, dim, mesh.coords)) for layout, dim in zip(cut, self.dims, strict=True)
        ]
        ranks = range(mesh.comm(*axes).size)
        self.rank = mesh.comm(*axes).rank
        self._rows = [list(pairwise(each)) for each in starts]  # of each array, for each rank
        lengths = [[prod(self._shape(k, r)) for k in range(len(cut))] for r in ranks]
        self.sizes = tuple(map(sum, lengths))  # elements of each rank
        flat = list(pairwise(accumulate((n for each in lengths for n in each), initial=0)))
        self._spans = [flat[r * len(cut) : (r + 1) * len(cut)] for r in ranks]  # of each rank, for each array

    def put(self, k: int, whole: Array | None, flat: Array) -> None:
        """Copies array k to its places; None: zeros."""
        for rank, spans in enumerate(self._spans):
            out = flat[slice(*spans[k])].reshape(self._shape(k, rank))
            if whole is None:
                self.mesh.xp.fill(out, 0)
            else:
                self.mesh.xp.copy_into(out, whole[along(self.dims[k], *self._rows[k][rank])])

    def take(self, k: int, flat: Array, whole: Array) -> None:
        """Copies array k out of its places."""
        for rank, spans in enumerate(self._spans):
            here = flat[slice(*spans[k])].reshape(self._shape(k, rank))
            self.mesh.xp.copy_into(whole[along(self.dims[k], *self._rows[k][rank])], here)

    def packed(self, wholes: Sequence[Array | None], dtype: DType) -> Array:
        """All of them in a new flat array."""
        flat = self.mesh.xp.empty((sum(self.sizes),), dtype)
        for k, whole in enumerate(wholes):
            self.put(k, whole, flat)
        return flat

    def joined(self, pieces: Sequence[Array]) -> Array:
        """My pieces one after the other: what I hand in to an allgather."""
        xp = self.mesh.xp
        return xp.concatenate([xp.contiguous(each).reshape(-1) for each in pieces], 0)

    def pieces(self, mine: Array) -> list[Array]:
        """The pieces in what a reduce_scatter gave me: views."""
        first = self._spans[self.rank][0][0]
        return [
            mine[start - first : stop - first].reshape(self._shape(k, self.rank))
            for k, (start, stop) in enumerate(self._spans[self.rank])
        ]

    def _shape(self, k: int, rank: int) -> tuple[int, ...]:
        start, stop = self._rows[k][rank]
        return with_length(self.shapes[k], self.dims[k], stop - start)
