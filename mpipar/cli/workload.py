"""A step to be measured: that of train.py, on the data or on tokens drawn at random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import prod

from mpipar.config import TrainConfig
from mpipar.data import Batches, Corpus, TextBatches
from mpipar.data.tokens import FORMATS
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.models import GPT, GPTConfig
from mpipar.models.work import step_flops
from mpipar.optim import SGD, Adam, AdamW, clip_grad_norm
from mpipar.parallel import sync_gradients
from mpipar.random import Noise

DRAWN = 1 << 16  # tokens, of which windows are taken


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with its batches and its optimizer."""

    config: TrainConfig
    model: GPT
    batches: Batches
    optimizer: AdamW | Adam | SGD
    flops: int  # useful ones of a step, over all ranks
    parameters: int

    @classmethod
    def make(cls, c: TrainConfig, mesh: Mesh, vocabulary: int) -> Workload:
        corpus = Corpus.load(c.data, world(), c.context) if c.data else drawn(vocabulary, c.context)
        shape = GPTConfig(
            corpus.vocabulary, c.context, c.layers, c.heads, c.width, c.dropout, c.sequence_parallel, c.seed, c.dtype,
            style=c.style, kv_heads=c.kv_heads, rope_base=c.rope_base,
        )  # fmt: skip
        model = GPT(shape, mesh)
        parameters = model.parameters()
        optimizers = {"adamw": AdamW, "adam": Adam, "sgd": SGD}
        return cls(
            c, model, Batches(TextBatches(corpus, c.seed, c.batch, c.context), mesh, c.micro_batch),
            optimizers[c.optimizer](parameters, c.lr, weight_decay=c.weight_decay),
            step_flops(shape, c.batch, c.context), sum(prod(p.shape) for p in parameters),
        )  # fmt: skip

    def step(self, number: int) -> None:
        for part in self.batches.training(number):
            noise = Noise(self.config.seed, number, part.first_row)
            loss = self.model.loss(part.tokens, part.targets, noise) / self.batches.tokens
            loss.backward()
            loss.detach().allreduce("dp", "tp").item()
        sync_gradients(self.model)
        clip_grad_norm(self.model.parameters(), self.config.clip).item()
        self.optimizer.step()


def drawn(vocabulary: int, context: int) -> Corpus:
    """Tokens that nobody wrote, the same on every rank. Which they are changes no speed."""
    width = 1 if vocabulary <= 1 << 8 else 2 if vocabulary <= 1 << 16 else 4  # bytes an id
    dtype, draw = f"uint{8 * width}", random.Random(0)
    data = b"".join(draw.randrange(vocabulary).to_bytes(width, "little") for _ in range(DRAWN + context))
    ids = memoryview(data).cast(FORMATS[dtype])
    return Corpus(ids, ids, 0, vocabulary=vocabulary, dtype=dtype)
