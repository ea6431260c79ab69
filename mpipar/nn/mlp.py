"""The feed-forward half of a transformer block: columns up, rows down."""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.mesh import Mesh
from mpipar.nn.linear import ColumnParallelLinear, RowParallelLinear
from mpipar.nn.module import Module
from mpipar.tensor import Tensor


class ParallelMLP(Module):
    """(…, C) → GELU(x·up)·down → (…, C), the hidden dim cut over `axis`; the moves are those of attention."""

    def __init__(
        self, name: str, width: int, hidden: int, mesh: Mesh, *, axis: str = "tp", sequence_parallel: bool = False,
        std: float | None = None, out_std: float | None = None, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis, self.sequence_parallel = axis, sequence_parallel
        self.up = ColumnParallelLinear(
            f"{name}.up", width, hidden, mesh, axis=axis, std=std, seed=seed, dtype=dtype
        )
        self.down = RowParallelLinear(
            f"{name}.down", hidden, width, mesh, axis=axis, scatter=1 if sequence_parallel else None, std=out_std,
            seed=seed, dtype=dtype,
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        if self.sequence_parallel:
            x = x.allgather(self.axis)
        return self.down(self.up(x).gelu())
