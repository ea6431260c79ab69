"""A GPT trained as a pipeline on all ranks, and on this rank alone: what both give, step by step."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from mpipar import Mesh
from mpipar.backend import Backend
from mpipar.config import TrainConfig, micro_batches
from mpipar.data import Batches, Corpus, MicroBatch, TextBatches
from mpipar.job import world
from mpipar.models import GPT, GPTConfig, gpt_stages
from mpipar.optim import AdamW, clip_grad_norm
from mpipar.parallel import Pipeline, sync_gradients
from mpipar.parallel.schedule import Schedule, make
from mpipar.random import Noise

SIZE = world().size
BATCH, CONTEXT, STEPS = 8, 6, 20
TEXT = memoryview(bytes(7 * i * i % 251 for i in range(400)))
CHUNKS = {"interleaved": 2}  # stages a rank
# every grid of all ranks that has a pipeline; on one rank a pipeline of one
GRIDS = [
    {"dp": dp, "pp": pp, "tp": SIZE // dp // pp}
    for pp in range(min(2, SIZE), SIZE + 1)
    for dp in range(1, SIZE // pp + 1)
    if SIZE % (dp * pp) == 0
]


def grid_name(axes: dict[str, int]) -> str:
    return "-".join(f"{axis}{size}" for axis, size in axes.items())


def layers_of(axes: dict[str, int], name: str) -> int:
    """One more than there are stages: they are uneven."""
    return axes["pp"] * CHUNKS.get(name, 1) + 1


def config_of(layers: int, **options: object) -> GPTConfig:
    """Dropout is on."""
    base = GPTConfig(256, CONTEXT, layers, 4, 16, 0.2, seed=3, dtype="float64")
    return replace(base, **options)  # type: ignore[arg-type]


def batches_on(mesh: Mesh, micro_batch: int, batch: int = BATCH) -> Batches:
    return Batches(TextBatches(Corpus(TEXT, TEXT, 1), 0, batch, CONTEXT), mesh, micro_batch)


def schedule_for(name: str, axes: dict[str, int], micro_batch: int, batch: int = BATCH) -> Schedule:
    return make(name, axes["pp"], micro_batches(TrainConfig(batch=batch, micro_batch=micro_batch), axes))


def pipeline_on(mesh: Mesh, schedule: Schedule, config: GPTConfig) -> Pipeline:
    return Pipeline(mesh, schedule, gpt_stages(config, mesh, schedule.places))


def run_step(model: Pipeline, batches: Batches, step: int) -> float:
    """Gradients of one step; its loss."""

    def noise(part: MicroBatch) -> Noise:
        return Noise(0, step, part.first_row)

    found: float = model.forward_backward(list(batches.training(step)), noise, 1 / batches.tokens).item()
    return found


def piped_curve(model: Pipeline, batches: Batches, steps: int = STEPS) -> list[tuple[float, float]]:
    """Loss and gradient norm of each AdamW step."""
    optimizer, found = AdamW(model.parameters(), 1e-2), []
    for step in range(steps):
        loss = run_step(model, batches, step)
        sync_gradients(model)
        found.append((loss, clip_grad_norm(model.parameters(), 1.0).item()))
        optimizer.step()
    return found


@cache
def serial_curve(
    config: GPTConfig, batch: int = BATCH, steps: int = STEPS, xp: Backend | None = None
) -> list[tuple[float, float]]:
    """The same on one rank, the whole batch at once."""
    mesh = Mesh(ranks=[world().rank], device=xp)
    model, batches, found = GPT(config, mesh), batches_on(mesh, 0, batch), []
    optimizer = AdamW(model.parameters(), 1e-2)
    for step in range(steps):
        (part,) = batches.training(step)
        loss = model.loss(part.tokens, part.targets, Noise(0, step)) / batches.tokens
        loss.backward()
        sync_gradients(model)
        found.append(
            (loss.detach().allreduce("dp", "tp").item(), clip_grad_norm(model.parameters(), 1.0).item())
        )
        optimizer.step()
    return found
