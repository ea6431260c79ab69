"""The useful arithmetic of a training step: what the formulas ask for, not what an implementation does on top."""

from __future__ import annotations

from mpipar.models.gpt import GPTConfig


def multiplied_weights(c: GPTConfig) -> int:
    """Weights that a token is multiplied with: those of attention, of the feed-forward half, and of the head.

    C² each for queries and output, C²·K/H each for keys and values (K of H heads), 2·C·F for the feed-forward half, or
    3·C·F where it is gated; V·C for the head. Looking up embeddings multiplies nothing.
    """
    matrices = 2 if c.style == "gpt2" else 3
    keys_values = 2 * c.width * c.width * (c.kv_heads or c.heads) // c.heads
    block = 2 * c.width**2 + keys_values + matrices * c.width * c.hidden
    return c.layers * block + c.vocabulary * c.width


def step_flops(c: GPTConfig, sequences: int, context: int) -> int:
    """Floating-point operations of forward and backward over so many sequences; backward counts twice.

    6 a token and weight (Kaplan et al. 2020, eq. 2.1 and C = 6·N·tokens). Attention: two products of (T, C) by (C, T)
    forward, 4·T²·C, of which the causal mask leaves half; forward and backward 6·T²·C a sequence and layer.
    """
    tokens = sequences * context
    return 6 * tokens * multiplied_weights(c) + 6 * c.layers * tokens * context * c.width
