"""GPT-2. Radford et al. 2019: pre-norm blocks, learned positions, the head tied to the embedding.

B sequences, T positions, C width, V vocabulary. Between blocks x is (B, T, C): whole over `tp`, or with
`sequence_parallel` sharded in T (Korthikanti et al. 2022). Dropout acts on the embedding and on each residual branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from mpipar.layout import Shard
from mpipar.mesh import Mesh
from mpipar.nn import (
    Dropout,
    LayerNorm,
    Module,
    ParallelMLP,
    ParallelSelfAttention,
    VocabParallelEmbedding,
    vocab_parallel_cross_entropy,
)
from mpipar.random import Noise
from mpipar.tensor import Tensor, parameter


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT."""

    vocabulary: int = 256
    context: int = 128  # the longest sequence, in tokens
    layers: int = 4
    heads: int = 6
    width: int = 192  # a multiple of heads
    dropout: float = 0.0
    sequence_parallel: bool = False
    seed: int = 0
    dtype: str = "float32"
    std: float = 0.02  # of the initial weights; those that end a residual branch: / √(2·layers)


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). (B, T, C) → (B, T, C).

    Over tp: 2 allreduces forward and 2 backward; with sequence_parallel 2 allgathers and 2 reduce_scatters each way.
    """

    def __init__(self, name: str, config: GPTConfig, mesh: Mesh) -> None:
        c = config
        out_std = c.std / sqrt(2 * c.layers)
        self.norm_1 = LayerNorm(f"{name}.norm_1", c.width, mesh, dtype=c.dtype)
        self.attention = ParallelSelfAttention(
            f"{name}.attention", c.width, c.heads, mesh, sequence_parallel=c.sequence_parallel, std=c.std,
            out_std=out_std, seed=c.seed, dtype=c.dtype,
        )  # fmt: skip
        self.dropout_1 = Dropout(f"{name}.dropout_1", c.dropout)
        self.norm_2 = LayerNorm(f"{name}.norm_2", c.width, mesh, dtype=c.dtype)
        self.mlp = ParallelMLP(
            f"{name}.mlp", c.width, 4 * c.width, mesh, sequence_parallel=c.sequence_parallel, std=c.std,
            out_std=out_std, seed=c.seed, dtype=c.dtype,
        )  # fmt: skip
        self.dropout_2 = Dropout(f"{name}.dropout_2", c.dropout)

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        x = x + self.dropout_1(self.attention(self.norm_1(x)), noise)
        return x + self.dropout_2(self.mlp(self.norm_2(x)), noise)


class GPT(Module):
    """Tokens (B, T) → logits (B, T, V), the vocabulary sharded over tp."""

    def __init__(self, config: GPTConfig, mesh: Mesh) -> None:
        c = self.config = config
        scatter = 1 if c.sequence_parallel else None
        self.embedding = VocabParallelEmbedding(
            "embedding", c.vocabulary, c.width, mesh, scatter=scatter, std=c.std, seed=c.seed, dtype=c.dtype
        )
        self.positions = parameter(
            "positions.weight", (c.context, c.width), mesh, std=c.std, seed=c.seed, dtype=c.dtype
        )
        self.dropout = Dropout("dropout", c.dropout)
        self.blocks = [Block(f"blocks.{i}", c, mesh) for i in range(c.layers)]
        self.norm = LayerNorm("norm", c.width, mesh, dtype=c.dtype)

    def __call__(self, tokens: Tensor, noise: Noise | None = None) -> Tensor:
        positions = self.positions[: tokens.shape[1]]  # (T, C)
        if self.config.sequence_parallel:
            positions = positions.redistribute(tp=Shard(0))  # local: each rank takes its positions
        x = self.dropout(self.embedding(tokens) + positions, noise)  # (B, T, C)
        for block in self.blocks:
            x = block(x, noise)
        x = self.norm(x)
        if self.config.sequence_parallel:
            x = x.allgather("tp")
        return self.embedding.logits(x)  # (B, T, V)

    def loss(self, tokens: Tensor, targets: Tensor, noise: Noise | None = None) -> Tensor:
        """The sum over all tokens of -log p(target), in nats: Partial over the axes that cut batch or vocabulary."""
        return vocab_parallel_cross_entropy(self(tokens, noise), targets).sum()
