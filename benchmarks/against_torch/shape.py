"""What both sides share: the shape of the model, its initial weights, the batches, and the useful work of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LR, BETAS, EPS, DECAY = 3e-4, (0.9, 0.95), 1e-8, 0.1  # AdamW; biases and the gains of norms do not decay


@dataclass(frozen=True)
class Shape:
    """A GPT-2 with a tied head, in float32, and the batch of a step."""

    width: int
    layers: int
    heads: int
    context: int
    batch: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.context

    @property
    def useful_flops(self) -> int:
        """Of a step: 6 a token and weight that is multiplied with, and attention to the tokens before.

        Forward 2 and backward 4: of the weights 12·C² a block and V·C of the head; of attention two products of
        (T, T) by C, of which the causal mask leaves half.
        """
        c, tokens = self.width, self.tokens
        weights = 12 * c * c * self.layers + self.vocabulary * c
        return 6 * tokens * weights + 6 * self.layers * tokens * self.context * c


SIZES = {
    "S": Shape(width=256, layers=4, heads=8, context=256, batch=8, vocabulary=8192),
    "M": Shape(width=768, layers=6, heads=12, context=512, batch=4, vocabulary=16384),
}


def weights(s: Shape) -> dict[str, np.ndarray]:
    """Initial weights by mpipar's names and in its shapes: the same numbers whoever asks. No bias is 0, no gain 1."""
    c, inner = s.width, s.width // s.heads
    shapes = {"embedding.weight": (s.vocabulary, c), "positions.weight": (s.context, c)}
    for i in range(s.layers):
        block = {
            "norm_1.gain": (c,), "norm_1.bias": (c,),
            "attention.qkv.weight": (c, 3, s.heads, inner), "attention.qkv.bias": (3, s.heads, inner),
            "attention.out.weight": (s.heads, inner, c), "attention.out.bias": (c,),
            "norm_2.gain": (c,), "norm_2.bias": (c,),
            "mlp.up.weight": (c, 4 * c), "mlp.up.bias": (4 * c,),
            "mlp.down.weight": (4 * c, c), "mlp.down.bias": (c,),
        }  # fmt: skip
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"norm.gain": (c,), "norm.bias": (c,)}
    return {name: _drawn(name, k, shape) for k, (name, shape) in enumerate(shapes.items())}


def _drawn(name: str, number: int, shape: tuple[int, ...]) -> np.ndarray:
    noise = 0.02 * np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
    return noise + np.float32(1) if name.endswith("gain") else noise


def batch(s: Shape, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and targets of a step, (batch, context) of int64. Small ids are the common ones, which can be learnt."""
    draws = np.random.default_rng([1, step]).random((s.batch, s.context + 1))
    ids = (s.vocabulary * draws**4).astype(np.int64)
    return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])


def rows(s: Shape, rank: int, ranks: int) -> slice:
    """My rows of a batch that is cut over ranks: the first ranks have one more where it does not divide."""
    each, more = divmod(s.batch, ranks)
    first = rank * each + min(rank, more)
    return slice(first, first + each + (rank < more))
