"""A checkpoint of a pipeline, whose ranks hold different weights, is one of the whole model.

Saved with one number of stages it loads with another, into a model that is not cut, and back. A failure names the two:
a curve that differs from the first step on has read a weight of another stage, one that drifts apart later its moments.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest
from pipelines import batches_on, config_of, pipeline_on, run_step, schedule_for, serial_curve

from mpipar import Mesh
from mpipar.checkpoint import load, save
from mpipar.checkpoint.tools import first_look
from mpipar.job import world
from mpipar.models import GPT
from mpipar.optim import AdamW, clip_grad_norm
from mpipar.parallel import Pipeline, sync_gradients
from mpipar.random import Noise

SAVED, STEPS = 2, 5
CONFIG = {"tied": {}, "untied": {"style": "llama"}}
RUNS = {  # axes on the first ranks of the job, and a schedule
    "one rank": ({"pp": 1}, ""),
    "pp=2": ({"pp": 2}, "1f1b"),
    "pp=2, interleaved": ({"pp": 2}, "interleaved"),
    "tp=2": ({"tp": 2, "pp": 1}, ""),
    "pp=3": ({"pp": 3}, "zero_bubble"),
    "pp=4": ({"pp": 4}, "gpipe"),
    "dp=2,pp=2": ({"dp": 2, "pp": 2}, "1f1b"),
    "pp=2,tp=2": ({"pp": 2, "tp": 2}, "zero_bubble"),
}
HERE = [name for name, (axes, _) in RUNS.items() if prod(axes.values()) <= world().size]
PAIRS = sorted({(a, HERE[(i + by) % len(HERE)]) for i, a in enumerate(HERE) for by in (1, 3)})


@cache
def mesh_of(name: str) -> Mesh:
    axes = RUNS[name][0]
    return Mesh(ranks=range(prod(axes.values())), device="cpu", **axes)


class Training:
    """A model of five layers and its optimizer, on the mesh of that name."""

    def __init__(self, name: str, style: str) -> None:
        axes, schedule = RUNS[name]
        mesh, config = mesh_of(name), config_of(5, **CONFIG[style])
        if schedule:
            self.model = pipeline_on(mesh, schedule_for(schedule, axes, 1), config)
        else:
            self.model = GPT(config, mesh)
        self.batches = batches_on(self.model.mesh, 1)
        self.optimizer = AdamW(self.model.parameters(), 1e-2)

    def train(self, start: int, stop: int) -> list[tuple[float, float]]:
        found = []
        for step in range(start, stop):
            loss = self.step(step)
            sync_gradients(self.model)
            found.append((loss, clip_grad_norm(self.model.parameters(), 1.0).item()))
            self.optimizer.step()
        return found

    def step(self, step: int) -> float:
        if isinstance(self.model, Pipeline):
            return run_step(self.model, self.batches, step)
        total = 0.0
        for part in self.batches.training(step):
            loss = (
                self.model.loss(part.tokens, part.targets, Noise(0, step, part.first_row))
                / self.batches.tokens
            )
            loss.backward()
            total += loss.detach().allreduce("dp", "tp").item()
        return total


@pytest.mark.parametrize("style", CONFIG)
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_curve_goes_on(
    before: str, after: str, style: str, directory: Path, count_cases: Counter[str]
) -> None:
    if world().rank < ranks_of(before):
        run = Training(before, style)
        run.train(0, SAVED)
        save(directory, SAVED, run.model, run.optimizer)
    world().barrier()
    if world().rank < ranks_of(after):
        run = Training(after, style)
        found = load(directory, run.model, run.optimizer)
        assert found is not None
        expected = serial_curve(config_of(5, **CONFIG[style]), steps=STEPS)[SAVED:]
        np.testing.assert_allclose(run.train(SAVED, STEPS), expected, rtol=1e-9)
    count_cases["pairs of pipelines"] += 1


def ranks_of(name: str) -> int:
    return prod(RUNS[name][0].values())


@pytest.mark.parametrize("style", CONFIG)
def test_the_files_hold_each_weight_once(style: str, directory: Path) -> None:
    """The tied one too, of which two stages have a copy; and the notes say on what mesh it was."""
    name = HERE[-1]
    if world().rank < ranks_of(name):
        run = Training(name, style)
        path = save(directory, 0, run.model, run.optimizer)
        if world().rank == 0:
            found = first_look(path)
            whole = GPT(config_of(5, **CONFIG[style]), Mesh(ranks=[0], device="cpu"))
            stored = {n.removeprefix("model/"): t for n, t in found.tensors.items() if n.startswith("model/")}
            assert {n: t.shape for n, t in stored.items()} == {
                n: p.shape for n, p in whole.named_parameters().items()
            }
            assert found.nbytes < 3 * 8 * sum(p.local.size for p in whole.parameters()) + 100_000
            assert found.notes.mesh == {axis: size for axis, size in RUNS[name][0].items() if size > 1}
