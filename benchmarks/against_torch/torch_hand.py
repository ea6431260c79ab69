"""Tensor parallelism by hand, as in Megatron-LM (Shoeybi et al. 2019), over gloo."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from shape import Shape
from torch import Tensor, nn
from torch_model import GPT, Form, load, torch_weights


class Copied(torch.autograd.Function):
    """The same x for every rank's columns; its gradient is the sum over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        dist.all_reduce(g)
        return g


class Reduced(torch.autograd.Function):
    """The sum over ranks; its gradient is the same for every rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class ColumnLinear(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs // dist.get_world_size())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Copied.apply(x))


class RowLinear(nn.Linear):
    """The bias is in the product of the first rank, where it costs nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs // dist.get_world_size(), outputs, bias=dist.get_rank() == 0)

    def forward(self, x: Tensor) -> Tensor:
        return Reduced.apply(super().forward(x))


class VocabularyLoss(torch.autograd.Function):
    """Cross-entropy of logits (N, V here): one allreduce of the maxima, one of the sums and the picked logits.

    The logits are overwritten: nobody else needs them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, first: int) -> Tensor:
        top = logits.amax(1)
        dist.all_reduce(top, dist.ReduceOp.MAX)
        z = logits.sub_(top[:, None])
        here = (targets >= first) & (targets < first + z.shape[1])
        t = torch.where(here, targets - first, 0)
        picked = z.gather(1, t[:, None])[:, 0] * here
        both = torch.stack([z.exp_().sum(1), picked])
        dist.all_reduce(both)
        ctx.save_for_backward(z, both[0], t, here)
        return (both[0].log() - both[1]).mean()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        z, total, t, here = ctx.saved_tensors
        share = g / len(t)
        z.mul_((share / total)[:, None])
        z.scatter_add_(1, t[:, None], (-share * here)[:, None])
        return z, None, None


class HandGPT(GPT):
    """GPT with heads, hidden units and vocabulary cut over the ranks."""

    def __init__(self, s: Shape) -> None:
        super().__init__(s, ColumnLinear, RowLinear)
        here = s.vocabulary // dist.get_world_size()
        self.first = here * dist.get_rank()
        self.embedding, self.head = nn.Embedding(here, s.width), nn.Linear(s.width, here, bias=False)
        self.tie()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = Reduced.apply(self.look_up(tokens)) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = self.head(Copied.apply(self.norm(x))).flatten(0, 1)
        return VocabularyLoss.apply(logits, targets.flatten(), self.first)

    def look_up(self, tokens: Tensor) -> Tensor:
        """The rows that this rank has, zeros for the others."""
        ids = tokens - self.first
        elsewhere = (ids < 0) | (ids >= self.embedding.num_embeddings)
        return F.embedding(ids.masked_fill(elsewhere, 0), self.embedding.weight).masked_fill(
            elsewhere[..., None], 0
        )


def make(s: Shape) -> Form:
    model = HandGPT(s)
    load(model, {name: my_piece(name, w) for name, w in torch_weights(s).items()})
    return Form(model, nullcontext)


CUTS = {  # columns are the first dim of torch's weights, rows the second
    **dict.fromkeys(("embedding.weight", "head.weight", "qkv.weight", "qkv.bias", "up.weight", "up.bias"), 0),
    **dict.fromkeys(("out.weight", "down.weight"), 1),
}


def my_piece(name: str, w: np.ndarray) -> np.ndarray:
    dim = next((CUTS[end] for end in CUTS if name.endswith(end)), None)
    return w if dim is None else np.split(w, dist.get_world_size(), dim)[dist.get_rank()]
