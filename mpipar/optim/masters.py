"""Master weights: float32 copies of 16-bit weights. Micikevicius et al. 2018, section 3.1.

An update is often less than half of the last digit of a 16-bit weight and would be lost in it. So the optimizer updates
a float32 copy and rounds that into the weight. A rank has masters of the pieces that it updates, no more: under ZeRO
they are cut as the moments are.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.backend import Array
from mpipar.nn.pieces import piece
from mpipar.tensor import Tensor


class Masters:
    """By the name of the weight; made from the weights when first asked for, so after those were loaded."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = [p for p in parameters if p.dtype.itemsize == 2]
        self._arrays: dict[str, Array] = {}

    @property
    def arrays(self) -> dict[str, Array]:
        if not self._arrays:
            self._arrays = {p.name: _widened(p) for p in self.parameters}
        return self._arrays

    def of(self, parameter: Tensor) -> Array | None:
        """The float32 piece to update instead of the weight's; None for weights that are wide themselves.

        Where a weight is no longer its master rounded it was changed by others, and the master takes that over.
        """
        if parameter.dtype.itemsize != 2:
            return None
        xp, master, weight = parameter.mesh.xp, self.arrays[parameter.name], piece(parameter)
        same = xp.cast(master, parameter.dtype) == weight
        xp.copy_into(master, xp.where(same, master, xp.widen(weight)))
        return master


def _widened(parameter: Tensor) -> Array:
    xp = parameter.mesh.xp
    return xp.contiguous(xp.widen(piece(parameter)))
