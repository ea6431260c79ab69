"""GPT in two styles, from one config. `STYLES` says in which parts they differ.

GPT-2 (Radford et al. 2019): layer norm, learned positions, GELU, biases, the head tied to the embedding. Llama (Touvron
et al. 2023): RMS norm, rotary positions, SwiGLU, grouped heads of keys, no biases, a head of its own. Both norm
before each half of a block.

B sequences, T positions, C width, V vocabulary. Between blocks x is (B, T, C): whole over `tp`, or with
`sequence_parallel` sharded in T (Korthikanti et al. 2022). Dropout acts on the embedding and on each residual branch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

from mpipar.errors import UsageError
from mpipar.layout import Cut, Layout, Shard
from mpipar.mesh import Mesh
from mpipar.nn import (
    ColumnParallelLinear,
    Dropout,
    LayerNorm,
    LearnedPositions,
    Module,
    ParallelGroupedAttention,
    ParallelMLP,
    ParallelSelfAttention,
    ParallelSwiGLU,
    RMSNorm,
    VocabParallelEmbedding,
    checkpoint,
)
from mpipar.random import Noise
from mpipar.tensor import Tensor

RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. Raises UsageError for an unknown style, and for what is llama's and not asked of llama."""

    vocabulary: int = 256
    context: int = 128  # the longest sequence, in tokens
    layers: int = 4
    heads: int = 6
    width: int = 192  # a multiple of heads, for llama of 2·heads
    dropout: float = 0.0
    sequence_parallel: bool = False
    seed: int = 0
    dtype: str = "float32"
    std: float = 0.02  # of the initial weights; those that end a residual branch: / √(2·layers)
    style: str = "gpt2"  # or "llama"
    kv_heads: int = 0  # llama: heads of keys and values, a divisor of heads; 0: as many as heads
    rope_base: float = 10_000.0  # llama: the longest wavelength of rotary positions is about 2π·rope_base
    recompute: str = "none"  # in backward, of a block: "selective", what costs little; "full", all

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UsageError(f"GPTConfig: style={self.style!r} is unknown. Known: {', '.join(STYLES)}")
        if self.recompute not in RECOMPUTE:
            raise UsageError(
                f"GPTConfig: recompute={self.recompute!r} is unknown. Known: {', '.join(RECOMPUTE)}"
            )
        if self.style != "llama" and (self.kv_heads or self.rope_base != GPTConfig.rope_base):
            raise UsageError('GPTConfig: kv_heads and rope_base are of style="llama"')

    @property
    def hidden(self) -> int:
        """Of the feed-forward half: 4C; gated, with as many weights in three matrices, 8C/3 up to a multiple of 32."""
        return 4 * self.width if self.style == "gpt2" else -(-8 * self.width // (3 * 32)) * 32

    @property
    def branch(self) -> dict[str, Any]:
        """What both halves of a block are made with."""
        return {
            "sequence_parallel": self.sequence_parallel,
            "std": self.std,
            "out_std": self.std / sqrt(2 * self.layers),
            "seed": self.seed,
            "dtype": self.dtype,
        }


class Style(NamedTuple):
    """The parts in which models differ; attention and mlp are made from a name, the config and the mesh."""

    norm: type[LayerNorm | RMSNorm]
    attention: Callable[[str, GPTConfig, Mesh], ParallelSelfAttention | ParallelGroupedAttention]
    mlp: Callable[[str, GPTConfig, Mesh], ParallelMLP | ParallelSwiGLU]
    learned_positions: bool  # or rotary ones, in attention
    tied_head: bool


STYLES = {
    "gpt2": Style(
        norm=LayerNorm,
        attention=lambda name, c, mesh: ParallelSelfAttention(name, c.width, c.heads, mesh, **c.branch),
        mlp=lambda name, c, mesh: ParallelMLP(name, c.width, c.hidden, mesh, **c.branch),
        learned_positions=True,
        tied_head=True,
    ),
    "llama": Style(
        norm=RMSNorm,
        attention=lambda name, c, mesh: ParallelGroupedAttention(
            name, c.width, c.heads, c.kv_heads or c.heads, mesh, rope_base=c.rope_base, **c.branch
        ),
        mlp=lambda name, c, mesh: ParallelSwiGLU(name, c.width, c.hidden, mesh, **c.branch),
        learned_positions=False,
        tied_head=False,
    ),
}


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). (B, T, C) → (B, T, C).

    Over tp: 2 allreduces forward and 2 backward; with sequence_parallel 2 allgathers and 2 reduce_scatters each way.
    """

    def __init__(self, name: str, config: GPTConfig, mesh: Mesh) -> None:
        c, style = config, STYLES[config.style]
        self.selective = c.recompute == "selective"
        self.norm_1 = style.norm(f"{name}.norm_1", c.width, mesh, dtype=c.dtype)
        self.attention = style.attention(f"{name}.attention", c, mesh)
        self.dropout_1 = Dropout(f"{name}.dropout_1", c.dropout)
        self.norm_2 = style.norm(f"{name}.norm_2", c.width, mesh, dtype=c.dtype)
        self.mlp = style.mlp(f"{name}.mlp", c, mesh)
        self.dropout_2 = Dropout(f"{name}.dropout_2", c.dropout)

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        y, mlp = self.attention.unbiased(self.norm_1(x)), self.mlp
        x = self.dropout_1.add(y, self.attention.out_bias, x, noise)
        y = mlp.unbiased(x, self.norm_2) if self.selective else mlp.unbiased(self.norm_2(x))
        return self.dropout_2.add(y, mlp.out_bias, x, noise)


class GPT(Module):
    """Tokens (B, T) → logits (B, T, V), the vocabulary sharded over tp.

    Or a stage of that, which has some of the `blocks`, on the part of the mesh where they are: the first begins with
    the embedding, the last ends with norm and head, between them x (B, T, C) goes from one to the next. Where the head
    is tied the last one takes the `embedding` of the first.
    """

    embedding: VocabParallelEmbedding | None = None
    positions: LearnedPositions | None = None
    norm: LayerNorm | RMSNorm | None = None
    head: ColumnParallelLinear | None = None

    def __init__(
        self, config: GPTConfig, mesh: Mesh, blocks: range | None = None,
        embedding: VocabParallelEmbedding | None = None,
    ) -> None:  # fmt: skip
        c, style = config, STYLES[config.style]
        blocks = range(c.layers) if blocks is None else blocks
        weights: dict[str, Any] = {"std": c.std, "seed": c.seed, "dtype": c.dtype}
        self.config, self.mesh = config, mesh
        self.is_first, self.is_last = blocks.start == 0, blocks.stop == c.layers
        if embedding is not None or self.is_first:
            self.embedding = embedding or token_embedding(c, mesh)
        if self.is_first and style.learned_positions:
            cut = "tp" if c.sequence_parallel else None
            self.positions = LearnedPositions("positions", c.context, c.width, mesh, axis=cut, **weights)
        self.dropout = Dropout("dropout", c.dropout)
        self.blocks = [Block(f"blocks.{i}", c, mesh) for i in blocks]
        if self.is_last:
            self.norm = style.norm("norm", c.width, mesh, dtype=c.dtype)
            if not style.tied_head:
                self.head = ColumnParallelLinear("head", c.width, c.vocabulary, mesh, bias=False, **weights)

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        x = self.through_blocks(x, noise)
        return self.logits(x) if self.is_last else x  # (B, T, V)

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""
        return self.config.context

    def through_blocks(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Tokens (B, T), or in a later stage x (B, T, C) → (B, T, C)."""
        if self.is_first:
            x = self.embedded(x, noise)
        for block in self.blocks:
            x = self.through(block, x, noise)
        return x

    def through(self, block: Block, x: Tensor, noise: Noise | None) -> Tensor:
        """A block, whose weights may be gathered where it is called (ZeRO 3): so also where it is called again."""
        if self.config.recompute == "full":
            return checkpoint(lambda x: block(x, noise), x)
        return block(x, noise)

    def embedded(self, tokens: Tensor, noise: Noise | None) -> Tensor:
        assert self.embedding is not None, "the first stage has it"
        x = self.embedding(tokens)
        if self.positions is not None:
            x = self.positions(x)
        return self.dropout(x, noise)

    def features(self, x: Tensor) -> Tensor:
        """What the head multiplies: (B, T, C), whole over tp."""
        assert self.norm is not None, "the last stage has it"
        x = self.norm(x)
        return x.allgather("tp") if self.config.sequence_parallel else x

    def logits(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x) if self.head is not None else self.tied_head.logits(x)

    @property
    def tied_head(self) -> VocabParallelEmbedding:
        assert self.embedding is not None, "a tied head is on the first and the last stage"
        return self.embedding

    def loss(self, x: Tensor, targets: Tensor, noise: Noise | None = None) -> Tensor:
        """The sum over all tokens of -log p(target), in nats: Partial over the axes that cut batch or vocabulary."""
        x = self.features(self.through_blocks(x, noise))
        return (self.head or self.tied_head).cross_entropy(x, targets)

    def between(self, tokens: Tensor) -> tuple[Layout, str]:
        """Layout and dtype of x between two stages, where the first one has these tokens."""
        layout = Layout(tokens.layout.grid, (*tokens.layout.cuts, Cut((), (0, self.config.width))))
        return layout.placed("tp", Shard(1)) if self.config.sequence_parallel else layout, self.config.dtype


def token_embedding(config: GPTConfig, mesh: Mesh) -> VocabParallelEmbedding:
    c = config
    return VocabParallelEmbedding(
        "embedding", c.vocabulary, c.width, mesh, scatter=1 if c.sequence_parallel else None, std=c.std, seed=c.seed,
        dtype=c.dtype,
    )  # fmt: skip
