"""How a step runs: what it sends, how long it waits, what it keeps, and that no message can block it.

Time is that of a clock which each part of the work of a stage `Slow` moves on, and which messages carry.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from clocks import Clock, Clocked
from grids import cpu_alone, one_device
from pipelines import (
    GRIDS,
    SIZE,
    batches_on,
    config_of,
    grid_name,
    layers_of,
    pipeline_on,
    run_step,
    schedule_for,
)

from mpipar import GraphError, Mesh, Shard, UsageError, parameter, tensor
from mpipar.comm.mpi import Mpi
from mpipar.comm.steps import LAST_TAG
from mpipar.job import world
from mpipar.layout import Layout
from mpipar.models import split_layers
from mpipar.nn import Module
from mpipar.ops import op
from mpipar.ops.arithmetic import product_rule
from mpipar.parallel import Pipeline, sync_gradients
from mpipar.parallel.schedule import NAMES, Durations, Schedule, cost, make
from mpipar.tensor import Tensor
from mpipar.tensor.apply import apply
from mpipar.testing import Tally, count_collectives

grids = pytest.mark.parametrize("axes", GRIDS, ids=grid_name)
names = pytest.mark.parametrize("name", NAMES)
piped = pytest.mark.skipif(SIZE < 2, reason="a pipeline needs two ranks")


# ---- what is sent ---------------------------------------------------------------------------------------------


@grids
@names
@pytest.mark.parametrize("sequence", [False, True])
@one_device
def test_exact_messages_of_a_step(axes, name, sequence, make_mesh):
    """m messages of B·T·C/tp numbers forward from each stage but the last, the same backward from each but the first;
    without sequence parallelism x is whole over tp. Besides them one number: the loss.
    """
    config, mesh = config_of(layers_of(axes, name), sequence_parallel=sequence), make_mesh(**axes)
    schedule = schedule_for(name, axes, 1)
    model = pipeline_on(mesh, schedule, config)
    batches = batches_on(model.mesh, 1)
    with count_collectives(mesh) as counts:
        run_step(model, batches, 0)
    stages = schedule.stages_of(mesh.comm("pp").rank)
    out = sum(schedule.crosses(s) for s in stages) + sum(schedule.crosses(s - 1) for s in stages)
    m, positions = schedule.micro_batches, 6
    if sequence:
        positions = len(Layout.make(model.mesh.grid, (6,), {"tp": Shard(0)}).piece(0, model.mesh.coords))
    expected = {}
    if axes["pp"] > 1:
        expected["pp", "send"] = Tally(m * out, m * out * positions * config.width * 8)
        expected["pp", "recv"] = Tally(m * out, 0)
    if SIZE > 1:
        expected["mesh", "allreduce"] = Tally(1, 8)
    assert {key: value for key, value in counts.items() if key[0] in ("pp", "mesh")} == expected


@grids
@one_device
def test_a_tied_embedding_is_summed_over_its_two_stages_once(axes, make_mesh):
    """By the ordinary sync: one allreduce of the rank's rows of the vocabulary."""
    config, mesh = config_of(layers_of(axes, "1f1b")), make_mesh(**axes)
    model = pipeline_on(mesh, schedule_for("1f1b", axes, 1), config)
    run_step(model, batches_on(model.mesh, 1), 0)
    with count_collectives(mesh) as counts:
        sync_gradients(model)
    over_pp = {key: value for key, value in counts.items() if "pp" in key[0].split(",")}
    names = ",".join(axis for axis in ("dp", "pp") if axes[axis] > 1)
    here = model.named_parameters().get("embedding.weight")
    wanted = (
        {(names, "allreduce"): Tally(1, here.local.nbytes)} if here is not None and axes["pp"] > 1 else {}
    )
    assert over_pp == wanted


# ---- how long it takes, and what is kept ------------------------------------------------------------------------

clock = Clock()
durations = Durations()  # of the parts of `slow`
kept: set[int] = set()  # arrays that a vjp keeps


@op(product_rule)
def slow(context, x, w):
    """x·w that takes its time, three times; it keeps an array of its own until backward has run."""
    saved = context.xp.copy(x)
    kept.add(id(saved))
    weakref.finalize(saved, kept.discard, id(saved))
    clock.work(durations.forward)

    def grad_x(g):
        clock.work(durations.backward_input)
        return g * w

    def grad_w(g):
        clock.work(durations.backward_weight)
        return (g * saved).sum()

    return saved * w, (grad_x, grad_w)


class Slow(Module):
    """One operation between x and what comes of it. Tokens become x at once."""

    def __init__(self, mesh: Mesh, stage: int, stages: int) -> None:
        self.w = parameter(f"w{stage}", (), mesh, dtype="float64", std=1.0)
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        self.start = parameter("start", (), mesh, dtype="float64", std=1.0) if self.is_first else None

    def __call__(self, x, noise=None):
        x = x * self.start if self.is_first else x
        return apply(slow, x, self.w)

    def loss(self, x, targets, noise=None):
        return self(x).sum()

    def between(self, tokens):
        return tokens.layout, "float64"


class Part:
    """A micro-batch of one number."""

    def __init__(self, mesh: Mesh, numbers: int = 1) -> None:
        self.tokens = self.targets = tensor(np.ones(numbers), mesh)
        self.first_row = 0


def slow_pipeline(schedule: Schedule, numbers: int = 1, stage: type = Slow) -> tuple[Pipeline, list[Part]]:
    mesh = Mesh(pp=SIZE, device="cpu")
    here = mesh.at(pp=world().rank)
    stages = {s: stage(here, s, schedule.stages) for s in schedule.stages_of(world().rank)}
    return Pipeline(mesh, schedule, stages), [Part(here, numbers) for _ in range(schedule.micro_batches)]


@names
@piped
@pytest.mark.parametrize("each", [Durations(), Durations(1, 1.25, 0.5, 0.0625), Durations(0.5, 2, 1, 0.25)])
def test_time_and_memory_are_those_of_the_schedule(name, each, monkeypatch):
    """Makespan, bubble and live activations as executed are exactly those of the schedule's cost."""
    schedule = make(name, SIZE, 2 * SIZE)
    expected = cost(schedule, *each)
    model, parts = slow_pipeline(schedule)
    here = Clock()
    monkeypatch.setitem(globals(), "clock", here)
    monkeypatch.setitem(globals(), "durations", each)
    clocked = Clocked(model._comm.transport, here, each.send)
    monkeypatch.setattr(model._comm, "transport", clocked)
    model.forward_backward(parts)
    clocked.close()
    assert model.live_at_most == expected.peak[world().rank]
    assert not kept
    ends, worked = zip(*world().allgather_object((here.now, here.worked)), strict=True)
    assert max(ends) == expected.makespan
    assert 1 - sum(worked) / SIZE / max(ends) == pytest.approx(expected.bubble, rel=1e-12)


@names
@piped
def test_activations_are_freed_as_soon_as_their_backward_has_run(name):
    """What the tape keeps is never more than the activations that the schedule says are live."""
    schedule = make(name, SIZE, 2 * SIZE)
    most: list[int] = []

    class Watched(Slow):
        def __call__(self, x, noise=None):
            y = super().__call__(x)
            most.append(len(kept))
            return y

    model, parts = slow_pipeline(schedule, 1, Watched)
    model.forward_backward(parts)
    assert max(most) == cost(schedule).peak[world().rank]
    assert not kept


# ---- messages that do not go at once --------------------------------------------------------------------------------


class Synchronous:
    """An MPI communicator whose every send waits for its receive: nothing is sent eagerly."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, {"Isend": "Issend", "Send": "Ssend"}.get(name, name))


class Wide(Slow):
    """Without an operation of its own."""

    def __call__(self, x, noise=None):
        return (x * self.start if self.is_first else x) * self.w


@names
@piped
@pytest.mark.parametrize("synchronous", [False, True])
def test_nothing_blocks_whatever_an_mpi_sends_at_once(name, synchronous, monkeypatch):
    """Messages of 8 MB; and with sends that are never eager. The gradients are those of one rank."""
    schedule = make(name, SIZE, 2 * SIZE)
    model, parts = slow_pipeline(schedule, 1_000_000, Wide)
    transport = model._comm.transport
    assert isinstance(transport, Mpi)
    if synchronous:
        monkeypatch.setattr(transport, "_comm", Synchronous(transport._comm))
    loss = model.forward_backward(parts).item()
    weights = world().allgather_object({p.name: p.local.item() for p in model.parameters()})
    every = {n: w for each in weights for n, w in each.items()}
    product = np.prod(list(every.values()))
    assert loss == pytest.approx(len(parts) * 1e6 * product, rel=1e-12)
    for p in model.parameters():
        assert p.grad.local.item() == pytest.approx(loss / p.local.item(), rel=1e-12)


# ---- what does not fit ----------------------------------------------------------------------------------------------


@cpu_alone
def test_what_does_not_fit_is_refused(make_mesh):
    mesh = make_mesh(pp=SIZE)
    config, schedule = config_of(2 * SIZE), make("1f1b", SIZE, 4)
    with pytest.raises(UsageError, match=rf"is for {SIZE + 1} ranks, the mesh has pp={SIZE}"):
        Pipeline(mesh, make("1f1b", SIZE + 1, 4), {})
    with pytest.raises(
        UsageError, match=r"rank \d of pp holds the stages \[\], by the schedule '1f1b' \[\d\]"
    ):
        Pipeline(mesh, schedule, {})
    model = pipeline_on(mesh, schedule, config)
    with pytest.raises(UsageError, match="is for 4 micro-batches, there are 8"):
        model.forward_backward(list(batches_on(model.mesh, 1).training(0)))
    with pytest.raises(
        UsageError, match=r"more messages than MPI has tags \(32765\): take larger micro-batches"
    ):
        pipeline_on(mesh, make("gpipe", SIZE, LAST_TAG // (2 * SIZE) + 1), config)
    with pytest.raises(UsageError, match="3 layers over 4 stages: each stage needs at least one layer"):
        split_layers(3, 4)
    assert [len(blocks) for blocks in split_layers(7, 4)] == [2, 2, 2, 1]


def test_a_stage_that_cannot_learn_is_named():
    """On this rank alone, which runs its own two actions."""
    model, parts = slow_pipeline(make("gpipe", SIZE, 1), 1, Wide)
    (stage,) = model.stages
    step = model._step(lambda module, x, k: parts[k].tokens * 2.0, parts)
    step._inputs[stage, 0] = parts[0].tokens.local
    step.forward(stage, 0)
    with pytest.raises(
        GraphError, match=f"backward of stage {stage}, micro-batch 0: nothing in it requires a grad"
    ):
        step.backward(stage, 0)


def test_a_tensor_is_what_a_step_returns():
    model, parts = slow_pipeline(make("gpipe", SIZE, 1), 1, Wide)
    found = model.forward_backward(parts, scale=0.5)
    assert isinstance(found, Tensor)
    assert found.mesh is model.mesh.whole
    assert found.item() == pytest.approx(model.evaluate(parts).item() / 2)
