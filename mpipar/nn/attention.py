"""Self-attention with the heads cut over an axis. Heads are a dim of the weights, so they need not divide."""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.errors import UsageError
from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn.linear import reduced, zero_bias
from mpipar.nn.module import Module
from mpipar.tensor import Tensor, attention, parameter


class ParallelSelfAttention(Module):
    """(B, T, C) → (B, T, C). Weights: qkv (C, 3, H, D) cut on H, out (H, D, C) cut on H.

    x is whole over `axis` and one allreduce follows. Under `sequence_parallel` x is sharded in T: an allgather
    before and a reduce_scatter after.
    """

    def __init__(
        self, name: str, width: int, heads: int, mesh: Mesh, *, axis: str = "tp", causal: bool = True,
        sequence_parallel: bool = False, std: float | None = None, out_std: float | None = None, seed: int = 0,
        dtype: DType = "float32",
    ) -> None:  # fmt: skip
        if width % heads:
            raise UsageError(f"{name!r}: width {width} does not divide into {heads} heads")
        self.axis, self.causal, self.sequence_parallel = axis, causal, sequence_parallel
        inner = width // heads
        out_std = width**-0.5 if out_std is None else out_std

        def weight(part: str, shape: tuple[int, ...], std: float | None, cut: Shard) -> Tensor:
            return parameter(
                f"{name}.{part}.weight", shape, mesh, std=std, seed=seed, dtype=dtype, **{axis: cut}
            )

        self.qkv = weight("qkv", (width, 3, heads, inner), std, Shard(2))
        self.qkv_bias = zero_bias(f"{name}.qkv", (3, heads, inner), mesh, dtype, **{axis: Shard(1)})
        self.out = weight("out", (heads, inner, width), out_std, Shard(0))
        self.out_bias = zero_bias(f"{name}.out", (width,), mesh, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if self.sequence_parallel:
            x = x.allgather(self.axis)  # (B, T, C), T whole
        qkv = x.contract(self.qkv) + self.qkv_bias  # (B, T, 3, H, D), H sharded
        q, k, v = (qkv[:, :, part] for part in range(3))
        y = attention(q, k, v, causal=self.causal)  # (B, T, H, D)
        y = y.contract(self.out, n=2)  # (B, T, C), Partial
        return reduced(y, self.axis, 1 if self.sequence_parallel else None) + self.out_bias
