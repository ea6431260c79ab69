"""A small GPT in training under any ZeRO stage, and what is known of it without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpipar import Mesh
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.models import GPT, GPTConfig
from mpipar.optim import SGD, Adam, AdamW, clip_grad_norm, cosine
from mpipar.parallel import sharded, sync_gradients, sync_in_backward
from mpipar.random import Noise

TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
BATCH, CONTEXT, STEPS = 7, 5, 20


@dataclass(frozen=True)
class Setup:
    """What a run is made of: heads, width, rows and layers that do not divide, and dropout."""

    zero: int = 0
    style: str = "gpt2"  # tied; "llama" has a head of its own
    micro_batch: int = 0
    sequence_parallel: bool = False
    optimizer: str = "adamw"
    dtype: str = "float64"
    wire: str | None = None
    overlap: bool = True
    bucket_bytes: int = 10_000  # of several weights each
    clip: float = 0.5
    vocabulary: int = 256
    layers: int = 2
    recompute: str = "none"


class Zero:
    """A run of that setup on a mesh."""

    def __init__(self, mesh: Mesh, setup: Setup) -> None:
        s = self.setup = setup
        heads, width = (5, 15) if s.style == "gpt2" else (3, 18)
        shape = GPTConfig(
            s.vocabulary,
            CONTEXT,
            s.layers,
            heads,
            width,
            0.1,
            s.sequence_parallel,
            seed=3,
            dtype=s.dtype,
            style=s.style,
            recompute=s.recompute,
        )
        self.mesh = mesh
        self.model = sharded(lambda: GPT(shape, mesh), s.zero, wire=s.wire)
        kinds: dict[str, Any] = {
            "adamw": AdamW, "adam": Adam, "sgd": lambda ps, lr: SGD(ps, lr, momentum=0.9, nesterov=True)
        }  # fmt: skip
        self.optimizer = kinds[s.optimizer](self.model.parameters(), 0.01)
        self.batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), mesh, s.micro_batch)

    def train(self, start: int = 0, stop: int = STEPS) -> list[tuple[float, float]]:
        """Loss and gradient norm of each step."""
        return [self.step(step) for step in range(start, stop)]

    def step(self, step: int) -> tuple[float, float]:
        total = self.gradients(step)
        norm = clip_grad_norm(self.model.parameters(), self.setup.clip).item()
        self.optimizer.lr = cosine(step, lr=0.01, steps=STEPS, warmup_steps=4)
        self.optimizer.step()
        return total, norm

    def gradients(self, step: int) -> float:
        s, total = self.setup, 0.0
        how: dict[str, Any] = {"wire": s.wire, "bucket_bytes": s.bucket_bytes}
        for part in self.batches.training(step):
            noise = Noise(0, step, part.first_row)
            loss = self.model.loss(part.tokens, part.targets, noise) / self.batches.tokens
            if s.overlap:
                sync_in_backward(self.model, last=part.last, **how)
            loss.backward()
            total += loss.detach().allreduce(*self.batches.axes, "tp").item()
            if s.zero == 2 and not s.overlap:
                sync_gradients(self.model, **how)
        sync_gradients(self.model, **how)
        return total
