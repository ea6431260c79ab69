"""A small GPT in 16 bits in training, as train.py does it: masters, loss scale, micro-batches, dropout."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

from mpipar import Mesh
from mpipar.checkpoint import Together
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW, LossScale, clip_grad_norm, skip_step
from mpipar.parallel import sync_gradients
from mpipar.random import Noise

TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
CONTEXT, BATCH = 6, 5


class Mixed:
    """`spoil(step, model)` may change gradients before they are synced."""

    def __init__(
        self, mesh: Mesh, dtype: str, sequence: bool = False, spoil: Callable[[int, GPT], None] | None = None,
        seed: int = 3,
    ) -> None:  # fmt: skip
        shape = GPTConfig(256, CONTEXT, 2, 5, 20, 0.1, sequence, seed=seed, dtype=dtype)
        self.mesh, self.model, self.spoil = mesh, GPT(shape, mesh), spoil
        self.optimizer = AdamW(self.model.parameters(), 0.002)
        self.scale = LossScale(1024.0 if dtype == "float16" else 1.0, double_after=4)
        self.state = Together(self.optimizer, scale=self.scale)
        self.batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), mesh, 2)

    def train(self, start: int, stop: int) -> list[tuple[float, float, float]]:
        """Loss, gradient norm (-1: not finite, a step that was skipped) and scale after each step."""
        return [self.step(step) for step in range(start, stop)]

    def step(self, step: int) -> tuple[float, float, float]:
        total = 0.0
        for part in self.batches.training(step):
            noise = Noise(0, step, part.first_row)
            loss = self.model.loss(part.tokens, part.targets, noise) / self.batches.tokens
            (loss * self.scale.value).backward()
            total += loss.detach().allreduce("dp", "tp").item()
        if self.spoil is not None:
            self.spoil(step, self.model)
        sync_gradients(self.model)
        norm = clip_grad_norm(self.model.parameters(), 0.5, scale=self.scale.value).item()
        if self.scale.accepts(step, total, norm):
            self.optimizer.step()
        else:
            skip_step(self.model.parameters())
        return total, -1.0 if isnan(norm) or norm == float("inf") else norm, self.scale.value

    def bits(self) -> dict[str, bytes]:
        """My pieces of weights, moments and masters, bit by bit."""
        tensors: dict[str, Any] = self.model.state_dict() | self.optimizer.state_dict()
        return {
            name: x.mesh.xp.to_host(x.local).tobytes() for name, x in tensors.items() if hasattr(x, "local")
        }
