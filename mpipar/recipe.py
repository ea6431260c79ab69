"""From the settings of a run to what learns: the model, its optimizer, the learning rate of a step."""

from __future__ import annotations

from typing import TypeAlias

from mpipar.config import NONE, TrainConfig
from mpipar.mesh import Mesh
from mpipar.models import GPT, GPTConfig, gpt_stages
from mpipar.optim import SGD, Adam, AdamW, constant, cosine
from mpipar.parallel import LocalSGD, Pipeline, sharded
from mpipar.parallel.schedule import Schedule

Model: TypeAlias = GPT | Pipeline
Optimizer: TypeAlias = AdamW | Adam | SGD | LocalSGD


def shape_of(config: TrainConfig, vocabulary: int) -> GPTConfig:
    c = config
    return GPTConfig(
        vocabulary, c.context, c.layers, c.heads, c.width, c.dropout, c.sequence_parallel, c.seed, c.dtype,
        style=c.style, kv_heads=c.kv_heads, rope_base=c.rope_base, recompute=c.recompute,
    )  # fmt: skip


def build_model(config: TrainConfig, mesh: Mesh, vocabulary: int, schedule: Schedule | None = None) -> Model:
    """Each rank makes only its own piece of every weight, and in a pipeline only the stages that it runs."""
    shape = shape_of(config, vocabulary)

    def make() -> Model:
        if schedule is None:
            return GPT(shape, mesh)
        return Pipeline(mesh, schedule, gpt_stages(shape, mesh, schedule.places))

    return sharded(make, config.zero, wire=wire(config))


def wire(config: TrainConfig) -> str | None:
    """The dtype in which gradients travel, None for their own."""
    return None if config.wire == "full" else config.wire


def build_optimizer(config: TrainConfig, mesh: Mesh, model: Model) -> Optimizer:
    """Of a model on `mesh`, or with --outer of this rank's replica of it."""
    c, inner = config, build_inner(config, model)
    if c.outer == NONE:
        return inner
    return LocalSGD(
        model.parameters(), inner, mesh, c.outer, inner_steps=c.inner_steps, outer_lr=c.outer_lr,
        outer_momentum=c.outer_momentum, last=c.steps,
    )  # fmt: skip


def build_inner(config: TrainConfig, model: Model) -> AdamW | Adam | SGD:
    parameters, lr, decay = model.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=decay)
    return (AdamW if config.optimizer == "adamw" else Adam)(parameters, lr, weight_decay=decay)


def learning_rate(config: TrainConfig, step: int) -> float:
    if config.lr_schedule == "constant":
        return constant(step, lr=config.lr, warmup_steps=config.warmup)
    return cosine(step, lr=config.lr, steps=config.steps, warmup_steps=config.warmup)
