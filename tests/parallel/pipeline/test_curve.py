"""A pipeline gives the curve of one rank: loss and gradient norm of 20 AdamW steps to 1e-9, dropout on, float64.

A failure lists (step, which, serial, pipeline). Where step 0 differs in the loss, a forward pass is wrong; in the norm
alone, a gradient is, or a weight counts twice.
"""

from __future__ import annotations

import pytest
from grids import one_device
from pipelines import (
    GRIDS,
    SIZE,
    batches_on,
    config_of,
    grid_name,
    layers_of,
    piped_curve,
    pipeline_on,
    run_step,
    schedule_for,
    serial_curve,
)

from mpipar.job import world
from mpipar.models import sample
from mpipar.models.gpt import GPT
from mpipar.parallel import sync_gradients
from mpipar.parallel.schedule import NAMES, Action, Schedule, connect
from mpipar.random import Noise
from mpipar.tensor import no_grad
from mpipar.testing.values import serial_mesh

BOUND = 1e-9
STYLES = {
    "tied": {},
    "untied, sequence": {"style": "llama", "kv_heads": 2, "sequence_parallel": True},
}
grids = pytest.mark.parametrize("axes", GRIDS, ids=grid_name)
names = pytest.mark.parametrize("name", NAMES)
two_names = pytest.mark.parametrize("name", ["interleaved", "zero_bubble"])
styles = pytest.mark.parametrize("style", STYLES)


def differences(found, expected):
    return [
        (step, what, one, other)
        for step, (serial, piped) in enumerate(zip(expected, found, strict=True))
        for what, one, other in zip(("loss", "norm"), serial, piped, strict=True)
        if not abs(one - other) <= BOUND * abs(one)
    ]


@grids
@names
@styles
@one_device
def test_every_schedule_gives_the_curve_of_one_rank(axes, name, style, make_mesh, count_cases):
    """Layers uneven over the stages."""
    config = config_of(layers_of(axes, name), **STYLES[style])
    mesh = make_mesh(**axes)
    rows = max(1, 2 // axes["dp"])  # 4 micro-batches
    model = pipeline_on(mesh, schedule_for(name, axes, rows), config)
    assert not differences(piped_curve(model, batches_on(model.mesh, rows)), serial_curve(config, xp=mesh.xp))
    count_cases["pipelines"] += 1


@pytest.mark.parametrize("micro_batch", [1, 2])
@grids
@two_names
@one_device
def test_micro_batches_need_not_be_alike(axes, name, micro_batch, make_mesh):
    """7 rows, so that the last micro-batch is smaller; over dp a rank has no row in it."""
    config, mesh = config_of(layers_of(axes, name)), make_mesh(**axes)
    model = pipeline_on(mesh, schedule_for(name, axes, micro_batch, 7), config)
    found = piped_curve(model, batches_on(model.mesh, micro_batch, 7), steps=3)
    assert not differences(found, serial_curve(config, 7, 3, mesh.xp))


def v_shaped(ranks: int, micro_batches: int) -> Schedule:
    """Two stages a rank, the second ones in reverse: the first and the last stage are on one rank, as neighbours are
    in the middle.
    """
    places = (*range(ranks), *reversed(range(ranks)))

    def order(rank: int) -> list[Action]:
        forward = [
            Action("forward", s, k) for k in range(micro_batches) for s in (rank, 2 * ranks - 1 - rank)
        ]
        return forward + [Action("backward", stage, k) for _, stage, k in reversed(forward)]

    return connect(
        Schedule("v", ranks, 2 * ranks, micro_batches, tuple(tuple(order(r)) for r in range(ranks)), places)
    )


@grids
@one_device
def test_stages_may_be_on_any_rank(axes, make_mesh):
    config, mesh = config_of(2 * axes["pp"] + 1), make_mesh(**axes)
    model = pipeline_on(mesh, v_shaped(axes["pp"], 8 // axes["dp"]), config)
    found = piped_curve(model, batches_on(model.mesh, 1), steps=3)
    assert not differences(found, serial_curve(config, steps=3, xp=mesh.xp))


@grids
@two_names
@styles
@one_device
def test_weights_and_gradients_are_those_of_the_whole_model(axes, name, style, make_mesh):
    """By name; and each weight is on the stage that has its layer, a tied one on two."""
    config, mesh = config_of(layers_of(axes, name), **STYLES[style]), make_mesh(**axes)
    model = pipeline_on(mesh, schedule_for(name, axes, 1), config)
    alone = serial_mesh(mesh)
    whole, batches = GPT(config, alone), batches_on(alone, 0)
    (part,) = batches.training(0)
    (whole.loss(part.tokens, part.targets, Noise(0, 0)) / batches.tokens).backward()
    sync_gradients(whole)
    run_step(model, batches_on(model.mesh, 1), 0)
    sync_gradients(model)
    expected = whole.named_parameters()
    for each, p in model.named_parameters().items():
        assert p.numpy().tobytes() == expected[each].numpy().tobytes(), each
        assert abs(p.grad.numpy() - expected[each].grad.numpy()).max() < 1e-15, each
    held = world().allgather_object(sorted(model.named_parameters()))
    assert {n for names in held for n in names} == set(expected)
    copies = [sum(each in names for names in held) // (SIZE // axes["pp"]) for each in expected]
    tied = "style" not in STYLES[style] and axes["pp"] > 1
    assert copies == [2 if tied and each == "embedding.weight" else 1 for each in expected]


@grids
@two_names
@styles
@one_device
def test_evaluation_and_sampling(axes, name, style, make_mesh):
    """Any number of micro-batches; every rank has the logits, and the same text."""
    config, mesh = config_of(layers_of(axes, name), std=0.5, **STYLES[style]), make_mesh(**axes)
    model = pipeline_on(mesh, schedule_for(name, axes, 1), config).eval()
    whole = GPT(config, serial_mesh(mesh)).eval()
    parts, (part,) = list(batches_on(model.mesh, 2).validation(1)), batches_on(whole.mesh, 0).validation(1)
    with no_grad():
        expected = whole.loss(part.tokens, part.targets).allreduce("dp", "tp").item()
    assert model.evaluate(parts).item() == pytest.approx(expected, rel=1e-13)
    assert all(p.grad is None for p in model.parameters())
    assert sample(model, b"def ", 4, seed=3) == sample(whole, b"def ", 4, seed=3)
    assert not model.training
