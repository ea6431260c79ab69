"""A small GPT in training, that can be saved after some steps and goes on: what a checkpoint must hold."""

from __future__ import annotations

from typing import Any

from mpipar import Mesh
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.models import GPT, GPTConfig
from mpipar.optim import AdamW, clip_grad_norm, cosine
from mpipar.parallel import sync_gradients
from mpipar.random import Noise

TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
CONTEXT, BATCH, STEPS = 6, 5, 6


class Trained:
    """Heads, rows and batches that do not divide; dropout, micro-batches, a warm-up and clipping."""

    def __init__(self, mesh: Mesh, sequence: bool = False, dtype: str = "float64", seed: int = 3) -> None:
        shape = GPTConfig(256, CONTEXT, 1, 5, 20, 0.1, sequence, seed=seed, dtype=dtype)
        self.mesh, self.model = mesh, GPT(shape, mesh)
        self.optimizer = AdamW(self.model.parameters(), 0.01)
        self.batches = Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, BATCH, CONTEXT), mesh, 2)

    def train(self, start: int, stop: int = STEPS) -> list[float]:
        """The losses of the steps from `start` to `stop`."""
        return [self.step(step) for step in range(start, stop)]

    def step(self, step: int) -> float:
        self.optimizer.lr = cosine(step, lr=0.01, steps=STEPS, warmup_steps=4)
        total = 0.0
        for part in self.batches.training(step):
            noise = Noise(0, step, part.first_row)
            loss = self.model.loss(part.tokens, part.targets, noise) / self.batches.tokens
            loss.backward()
            total += loss.detach().allreduce("dp", "tp").item()
        sync_gradients(self.model)
        clip_grad_norm(self.model.parameters(), 0.5)
        self.optimizer.step()
        return total

    def bits(self) -> dict[str, bytes]:
        """My pieces of weights and moments, bit by bit."""
        tensors: dict[str, Any] = self.model.state_dict() | self.optimizer.moments.tensors()
        return {name: x.mesh.xp.to_host(x.local).tobytes() for name, x in tensors.items()}
