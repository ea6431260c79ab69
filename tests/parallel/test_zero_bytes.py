"""What a step communicates under each stage: every collective and its bytes, as the pages of docs say.

The expected values are made of the layouts alone, but for what the model itself moves, which is measured without a
sync. A failure lists (label, operation) with calls and bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

import pytest
from grids import cpu_alone
from zeros import Setup, Zero

from mpipar.job import world
from mpipar.layout import Replicate
from mpipar.nn.gradients import moves
from mpipar.nn.pieces import target
from mpipar.parallel import sync_gradients
from mpipar.testing import count_collectives

SIZE = world().size
MESHES = [{"dp": SIZE}] if SIZE != 4 else [{"dp": 4}, {"dp": 2, "tp": 2}, {"replica": 2, "dp": 2}]
meshes = pytest.mark.parametrize(
    "axes", MESHES, ids=lambda axes: "-".join(f"{a}{n}" for a, n in axes.items())
)
many = pytest.mark.skipif(SIZE == 1, reason="one rank moves nothing")
ALL = 10**9  # bytes of a bucket that holds all of its kind


def elements(layout, mesh):
    """On this rank."""
    return prod(layout.local_shape(mesh.coords))


def counted(counts):
    return Counter(
        {(*key, what): value for key, tally in counts.items() for what, value in tally._asdict().items()}
    )


def step_of(run):
    """What is communicated in the forward and backward passes of a step and its sync."""
    run.step(0)  # makes communicators, and shows the order of the modules
    with count_collectives(run.mesh) as counts:
        run.gradients(1)
    return counted(counts)


def of_the_model(mesh, setup):
    """Without any sync: the moves of tp, and the loss for the log."""
    run = Zero(mesh, replace(setup, zero=0, overlap=False))
    with pytest.MonkeyPatch.context() as patch, count_collectives(mesh) as counts:
        patch.setattr("zeros.sync_gradients", lambda *args, **how: None)
        run.gradients(1)
    return counted(counts)


class Traffic(Counter):
    def add(self, axes, operation, calls, n_bytes):
        if prod(self.mesh.shape[axis] for axis in axes) > 1:
            self[",".join(axes), operation, "calls"] += calls
            self[",".join(axes), operation, "bytes"] += n_bytes


def of_the_sync(mesh, model, itemsize, times):
    """One reduce_scatter and, where more is owed, one allreduce for each kind of parameters."""
    traffic, kinds = Traffic(), {}
    traffic.mesh = mesh
    for p in model.parameters():
        kinds.setdefault((moves(p), p.layout.dual.partial), []).append(p)
    for ((scattered, owed), _), group in kinds.items():
        whole = sum(elements(p.layout, mesh) for p in group)
        mine = sum(elements(target(p), mesh) for p in group)
        if scattered:
            traffic.add(scattered, "reduce_scatter", times, times * itemsize * (whole - mine))
        if owed:
            traffic.add(owed, "allreduce", times, times * itemsize * mine)
    return traffic


def of_the_gathers(mesh, model, itemsize, micro_batches):
    """ZeRO 3: each unit comes for its forward and for its backward, but the last once: its backward follows at once."""
    traffic = Traffic()
    traffic.mesh = mesh
    units = [model.embedding, model.positions, *model.blocks, model.norm, model.head or model.embedding]
    for unit in (each for each in units if each is not None):
        here = sum(elements(p.layout, mesh) for p in unit.parameters())
        whole = sum(elements(p.layout.placed("dp", Replicate()), mesh) for p in unit.parameters())
        gathers = 2 * micro_batches
        traffic.add(("dp",), "allgather", gathers, gathers * 4 * here)
        traffic.add(("dp",), "reduce_scatter", micro_batches, micro_batches * itemsize * (whole - here))
    traffic.add(("dp",), "allgather", -micro_batches, -micro_batches * 4 * here)
    return traffic


@many
@cpu_alone
@pytest.mark.parametrize("wire", [None, "bfloat16"])
@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("style", ["gpt2", "llama"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@meshes
def test_a_step_costs_what_its_formula_says(axes, zero, style, micro_batch, wire, make_mesh):
    mesh = make_mesh(**axes)
    setup = Setup(zero, style, micro_batch, wire=wire, bucket_bytes=ALL, clip=0, dtype="float32")
    run = Zero(mesh, setup)
    found = step_of(run)
    micro_batches = len(list(run.batches.training(1)))
    itemsize = 4 if wire is None else 2
    expected = of_the_model(mesh, setup)
    expected.update(of_the_sync(mesh, run.model, itemsize, micro_batches if zero == 2 else 1))
    if zero == 3:
        expected.update(of_the_gathers(mesh, run.model, itemsize, micro_batches))
    assert found == +expected


@many
@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputation_gathers_no_more(how, make_mesh):
    """A block is gathered for its second forward, and its backward follows."""
    setup = Setup(3, micro_batch=1, bucket_bytes=ALL)
    expected, found = (
        step_of(Zero(make_mesh(dp=SIZE), replace(setup, recompute=each))) for each in ("none", how)
    )
    assert found == expected


@many
@pytest.mark.parametrize("zero", [1, 2])
def test_the_update_costs_one_allgather_of_the_weights(zero, make_mesh):
    mesh = make_mesh(dp=SIZE)
    run = Zero(mesh, Setup(zero, bucket_bytes=ALL))
    run.gradients(0)
    with count_collectives(mesh) as counts:
        run.optimizer.step()
    mine = sum(8 * elements(target(p), mesh) for p in run.model.parameters())
    assert counts == {("dp", "allgather"): (1, mine)}


@many
def test_buckets_are_of_their_size_and_the_last_weights_come_first(make_mesh):
    mesh = make_mesh(dp=SIZE)
    run = Zero(mesh, Setup(0, bucket_bytes=20_000))
    with count_collectives(mesh) as counts:
        run.gradients(0)
    homes = list(dict.fromkeys(p.leaf.home for p in reversed(run.model.parameters())))
    assert len(homes) >= 4
    for home in homes:
        assert home.buffer.nbytes <= 20_000 or len(home.parameters) == 1
    assert counts["dp", "allreduce"] == (len(homes), sum(8 * p.local.size for p in run.model.parameters()))
    assert sync_gradients(run.model) is None
