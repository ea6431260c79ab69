"""The feed-forward half of a transformer block: columns up, rows down. With GELU, or gated as in Llama."""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn.linear import ColumnParallelLinear, RowParallelLinear
from mpipar.nn.module import Module
from mpipar.tensor import Tensor, parameter, swiglu


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


class ParallelSwiGLU(Module):
    """(…, C) → (silu(x·gate)·(x·up))·down → (…, C), without biases. Shazeer 2020, eq. 6. The moves of ParallelMLP.

    Gate and up are one weight (C, 2, F) cut on F: one product, and both halves of a hidden unit on one rank.
    """

    def __init__(
        self, name: str, width: int, hidden: int, mesh: Mesh, *, axis: str = "tp", sequence_parallel: bool = False,
        std: float | None = None, out_std: float | None = None, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self.axis, self.sequence_parallel = axis, sequence_parallel
        self.gate_up = parameter(
            f"{name}.gate_up.weight",
            (width, 2, hidden),
            mesh,
            std=std,
            seed=seed,
            dtype=dtype,
            **{axis: Shard(2)},
        )
        self.down = RowParallelLinear(
            f"{name}.down", hidden, width, mesh, axis=axis, scatter=1 if sequence_parallel else None, bias=False,
            std=out_std, seed=seed, dtype=dtype,
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        if self.sequence_parallel:
            x = x.allgather(self.axis)
        return self.down(swiglu(x.contract(self.gate_up)))  # (…, 2, F) → (…, F), F sharded
