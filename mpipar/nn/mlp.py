"""The feed-forward half of a transformer block: columns up, rows down. With GELU, or gated as in Llama.

Called with `before`, a norm, they take x as it is before that norm, and keep for backward what products give and
nothing else: norm, gather and activation are made again (recompute.py), and so is the allgather of `sequence_parallel`.
"""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn.linear import ColumnParallelLinear, RowParallelLinear
from mpipar.nn.module import Module
from mpipar.nn.norm import LayerNorm, RMSNorm
from mpipar.nn.recompute import product
from mpipar.tensor import Tensor, biased_gelu, feed_forward, parameter, swiglu


class ParallelMLP(Module):
    """(…, C) → GELU(x·up + b)·down + b → (…, C), the hidden dim cut over `axis`; the moves are those of attention."""

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

    def __call__(self, x: Tensor, before: LayerNorm | RMSNorm | None = None) -> Tensor:
        assert self.out_bias is not None, "the product down has a bias"
        return self.unbiased(x, before) + self.out_bias

    @property
    def out_bias(self) -> Tensor | None:
        return self.down.bias

    def unbiased(self, x: Tensor, before: LayerNorm | RMSNorm | None = None) -> Tensor:
        """Without the last bias, for who adds it together with what comes next."""
        bias = self.up.bias
        assert bias is not None, "the product up has a bias"
        if before is not None:
            x = product(
                x, self.up.weight, lambda x, *weights: self.gathered(before(x, *weights)), before.weights
            )
            return self.down.unbiased(x, lambda x, bias=bias: biased_gelu(x, bias), [bias])
        x = self.gathered(x)
        if x.dtype.itemsize == 2:  # as one operation it would keep no product of 16 bits but make it again
            return self.down.unbiased(biased_gelu(x.contract(self.up.weight), bias))
        return self.down.moved(feed_forward(x, self.up.weight, bias, self.down.weight))

    def gathered(self, x: Tensor) -> Tensor:
        return x.allgather(self.axis) if self.sequence_parallel else x


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

    out_bias: Tensor | None = None

    def __call__(self, x: Tensor, before: LayerNorm | RMSNorm | None = None) -> Tensor:
        return self.unbiased(x, before)

    def unbiased(self, x: Tensor, before: LayerNorm | RMSNorm | None = None) -> Tensor:
        if before is not None:
            x = product(
                x, self.gate_up, lambda x, *weights: self.gathered(before(x, *weights)), before.weights
            )
            return self.down(x, swiglu)
        return self.down(swiglu(self.gathered(x).contract(self.gate_up)))  # (…, 2, F) → (…, F), F sharded

    def gathered(self, x: Tensor) -> Tensor:
        return x.allgather(self.axis) if self.sequence_parallel else x
