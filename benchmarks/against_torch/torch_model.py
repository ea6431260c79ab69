"""The same GPT-2 in torch, as one would write it: fused attention, fused AdamW, a tied head.

`Block` is made from a linear layer for what is cut by columns and one for what is cut by rows: `nn.Linear` twice, or
the two of `torch_hand.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from shape import BETAS, DECAY, EPS, LR, Shape, weights
from torch import Tensor, nn


class Form(NamedTuple):
    """A model that gives its loss, and what is around loss and backward."""

    model: nn.Module
    around: Callable[[], AbstractContextManager[None]]


class Block(nn.Module):
    def __init__(self, s: Shape, column: type[nn.Linear], row: type[nn.Linear]) -> None:
        super().__init__()
        self.inner = s.width // s.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
        self.qkv, self.out = column(s.width, 3 * s.width), row(s.width, s.width)
        self.up, self.down = column(s.width, 4 * s.width), row(4 * s.width, s.width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(self.norm_1(x)).view(
            b, t, -1, 3, self.inner
        )  # heads outermost: a cut by rows cuts heads
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(3))  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, -1))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Tokens and targets (B, T) → the mean loss."""

    def __init__(
        self, s: Shape, column: type[nn.Linear] = nn.Linear, row: type[nn.Linear] = nn.Linear
    ) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(s.vocabulary, s.width), nn.Embedding(s.context, s.width)
        self.blocks = nn.ModuleList(Block(s, column, row) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width)
        self.head = nn.Linear(s.width, s.vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def torch_weights(s: Shape) -> dict[str, np.ndarray]:
    """The initial weights by torch's names and in its shapes: (outputs, inputs), qkv's outputs in the order H, 3, D."""
    found = {"head.weight": (ours := weights(s))["embedding.weight"]}
    for name, w in ours.items():
        theirs = name.replace(".attention.", ".").replace(".mlp.", ".").replace(".gain", ".weight")
        found[theirs] = as_torch(name, w, s.width)
    return found


def as_torch(name: str, w: np.ndarray, width: int) -> np.ndarray:
    if name.endswith("qkv.weight"):
        return w.transpose(2, 1, 3, 0).reshape(3 * width, width)  # (C, 3, H, D) → (H·3·D, C)
    if name.endswith("qkv.bias"):
        return w.transpose(1, 0, 2).reshape(-1)
    if name.endswith(("out.weight", "up.weight", "down.weight")):
        return w.reshape(-1, w.shape[-1]).T
    return w


def load(model: nn.Module, found: dict[str, np.ndarray]) -> None:
    """Each weight of the model, whole or the piece that its shape asks for."""
    model.load_state_dict(
        {name: torch.from_numpy(np.ascontiguousarray(found[name])) for name in model.state_dict()}
    )


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Fused AdamW; DTensors in groups of their own, for they do not mix with others in one call."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        decays = not name.endswith("bias") and "norm" not in name
        groups.setdefault((type(p.data), decays), []).append(p)
    listed = [
        {"params": params, "weight_decay": DECAY if decays else 0.0} for (_, decays), params in groups.items()
    ]
    return torch.optim.AdamW(listed, lr=LR, betas=BETAS, eps=EPS, fused=True)
