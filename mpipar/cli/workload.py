"""A step to be measured: that of train.py, on the data or on tokens drawn at random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import prod

from mpipar.config import TrainConfig
from mpipar.data import Batches, Corpus, MicroBatch, TextBatches
from mpipar.data.tokens import FORMATS
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.models.work import step_flops
from mpipar.nn import weight_rows
from mpipar.optim import clip_grad_norm
from mpipar.parallel import (
    Pipeline,
    mesh_of_replica,
    replicas_of,
    rows_of_all,
    sync_gradients,
    sync_in_backward,
)
from mpipar.parallel.schedule import Schedule
from mpipar.random import Noise
from mpipar.recipe import Model, Optimizer, build_model, build_optimizer, shape_of, wire

DRAWN = 1 << 16  # tokens, of which windows are taken


@dataclass(frozen=True, slots=True)
class Workload:
    """A model with its batches and its optimizer."""

    config: TrainConfig
    model: Model
    batches: Batches
    optimizer: Optimizer
    flops: int  # useful ones of a step, over all ranks

    @classmethod
    def make(cls, c: TrainConfig, mesh: Mesh, vocabulary: int, schedule: Schedule | None) -> Workload:
        corpus = Corpus.load(c.data, world(), c.context) if c.data else drawn(vocabulary, c.context)
        model = build_model(c, mesh_of_replica(mesh, c.outer), corpus.vocabulary, schedule)
        batches = Batches(
            TextBatches(corpus, c.seed, c.batch, c.context),
            model.mesh,
            c.micro_batch,
            replicas_of(mesh, c.outer),
        )
        flops = step_flops(shape_of(c, corpus.vocabulary), c.batch, c.context)
        return cls(c, model, batches, build_optimizer(c, mesh, model), flops)

    @property
    def parameters(self) -> int:
        """Over all ranks, each weight once. Collective."""
        rows = rows_of_all(world(), weight_rows(self.model))
        return sum(prod(row.shape) for row in rows)

    def step(self, number: int) -> None:
        self._forward_backward(list(self.batches.training(number)), number)
        sync_gradients(self.model, wire=wire(self.config))
        clip_grad_norm(self.model.parameters(), self.config.clip).item()
        self.optimizer.step()

    def _forward_backward(self, parts: list[MicroBatch], number: int) -> None:
        def noise(part: MicroBatch) -> Noise:
            return Noise(self.config.seed, number, part.first_row)

        if isinstance(self.model, Pipeline):
            self.model.forward_backward(parts, noise, 1 / self.batches.tokens)
            return
        for part in parts:
            loss = self.model.loss(part.tokens, part.targets, noise(part)) / self.batches.tokens
            sync_in_backward(self.model, last=part.last, wire=wire(self.config))
            loss.backward()
            loss.detach().allreduce(*self.batches.axes, "tp").item()


def drawn(vocabulary: int, context: int) -> Corpus:
    """Tokens that nobody wrote, the same on every rank. Which they are changes no speed."""
    width = 1 if vocabulary <= 1 << 8 else 2 if vocabulary <= 1 << 16 else 4  # bytes an id
    dtype, draw = f"uint{8 * width}", random.Random(0)
    data = b"".join(draw.randrange(vocabulary).to_bytes(width, "little") for _ in range(DRAWN + context))
    ids = memoryview(data).cast(FORMATS[dtype])
    return Corpus(ids, ids, 0, vocabulary=vocabulary, dtype=dtype)
