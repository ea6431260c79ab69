"""Self-attention with the heads cut over an axis. Heads are a dim of the weights, so they need not divide.

B sequences, T positions, C width, H heads of queries, K heads of keys and values, D = C/H channels of a head.
"""

from __future__ import annotations

from mpipar.backend import DType
from mpipar.errors import UsageError
from mpipar.layout import Layout, Replicate, Shard
from mpipar.layout.rules import repeated
from mpipar.mesh import Mesh
from mpipar.nn.linear import reduced, zero_bias
from mpipar.nn.module import Module
from mpipar.tensor import Tensor, attention, parameter, repeat_interleave, rotary, self_attention


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
        return self.unbiased(x) + self.out_bias

    def unbiased(self, x: Tensor) -> Tensor:
        """Without the last bias, for who adds it together with what comes next."""
        if self.sequence_parallel:
            x = x.allgather(self.axis)  # (B, T, C), T whole
        qkv = x.contract(self.qkv, bias=self.qkv_bias)  # (B, T, 3, H, D), H sharded
        y = self_attention(qkv, causal=self.causal)  # (B, T, H, D)
        y = y.contract(self.out, n=2)  # (B, T, C), Partial
        return reduced(y, self.axis, 1 if self.sequence_parallel else None)


class ParallelGroupedAttention(Module):
    """(B, T, C) → (B, T, C) as in Llama: K heads of keys for H of queries, rotary positions, no biases.

    Weights: query (C, H, D) cut on H, key_value (C, 2, K, D), out (H, D, C) cut on H; the moves are those of
    ParallelSelfAttention. key_value is cut on K where that gives each rank the keys of its own queries. Where it does
    not (fewer heads than ranks, or pieces that do not fit) it is Replicate and its gradient Partial: its heads are
    repeated to H and then cut as those of the queries, so that a rank multiplies with what its queries need alone.
    Ainslie et al. 2023.
    """

    def __init__(
        self, name: str, width: int, heads: int, kv_heads: int, mesh: Mesh, *, axis: str = "tp", causal: bool = True,
        rope_base: float = 10_000.0, sequence_parallel: bool = False, std: float | None = None,
        out_std: float | None = None, seed: int = 0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        check_heads(name, width, heads, kv_heads)
        self.axis, self.causal, self.sequence_parallel = axis, causal, sequence_parallel
        self.rope_base, self.group, inner = rope_base, heads // kv_heads, width // heads
        self.kv_is_cut = fits_queries(heads, kv_heads, mesh, axis)
        out_std = width**-0.5 if out_std is None else out_std

        def weight(
            part: str, shape: tuple[int, ...], std: float | None, placement: Shard | Replicate
        ) -> Tensor:
            return parameter(
                f"{name}.{part}.weight", shape, mesh, std=std, seed=seed, dtype=dtype, **{axis: placement}
            )

        self.query = weight("query", (width, heads, inner), std, Shard(1))
        self.key_value = weight(
            "key_value", (width, 2, kv_heads, inner), std, Shard(2) if self.kv_is_cut else Replicate()
        )
        self.out = weight("out", (heads, inner, width), out_std, Shard(0))

    out_bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.unbiased(x)

    def unbiased(self, x: Tensor) -> Tensor:
        if self.sequence_parallel:
            x = x.allgather(self.axis)  # (B, T, C), T whole
        q = x.contract(self.query)  # (B, T, H, D), H sharded
        kv = x.contract(self.key_value_here())  # (B, T, 2, K, D), K sharded; or repeated: H, as the queries
        k, v = kv[:, :, 0], kv[:, :, 1]
        y = attention(rotary(q, self.rope_base), rotary(k, self.rope_base), v, causal=self.causal)
        y = y.contract(self.out, n=2)  # (B, T, C), Partial
        return reduced(y, self.axis, 1 if self.sequence_parallel else None)

    def key_value_here(self) -> Tensor:
        """The heads that the queries of this rank need. No communication."""
        if self.kv_is_cut:
            return self.key_value  # (C, 2, K, D)
        # (C, 2, K, D) → (C, 2, H, D), whole → H sharded, both local
        return repeat_interleave(self.key_value, self.group, dim=2).redistribute(**{self.axis: Shard(2)})


def check_heads(name: str, width: int, heads: int, kv_heads: int) -> None:
    if width % heads:
        raise UsageError(f"{name!r}: width {width} does not divide into {heads} heads")
    if kv_heads < 1 or heads % kv_heads:
        raise UsageError(f"{name!r}: {heads} heads do not divide into {kv_heads} groups, one a head of keys")
    if width // heads % 2:
        raise UsageError(
            f"{name!r}: a head of {width // heads} channels; rotary positions turn pairs of them"
        )


def fits_queries(heads: int, kv_heads: int, mesh: Mesh, axis: str) -> bool:
    """Whether the pieces of the heads of keys, each repeated for its group, are the pieces of the heads of queries."""
    queries, keys = (Layout.make(mesh.grid, (count,), {axis: Shard(0)}) for count in (heads, kv_heads))
    return repeated(keys, 0, heads // kv_heads) == queries
