"""ZeRO changes where weights, gradients and optimizer state lie, and no number.

A failure gives the step: the first one for a wrong gradient, a later one for a wrong update.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from grids import cpu_alone
from weights import every_layout, send_gradient, weight, whole_gradient
from zeros import Setup, Zero

from mpipar import GraphError, Mesh, Shard, UsageError, no_grad, parameter, randn
from mpipar.job import world
from mpipar.layout import Layout
from mpipar.models import sample
from mpipar.nn import Linear, Module, ParallelMLP
from mpipar.optim import AdamW, clip_grad_norm
from mpipar.parallel import sharded, sync_gradients, sync_in_backward
from mpipar.parallel.zero import cut, shard_updates

SIZE = world().size
MESHES = [{"dp": SIZE}] if SIZE != 4 else [{"dp": 4}, {"dp": 2, "tp": 2}, {"replica": 2, "dp": 2}]
meshes = pytest.mark.parametrize(
    "axes", MESHES, ids=lambda axes: "-".join(f"{a}{n}" for a, n in axes.items())
)
stages = pytest.mark.parametrize("zero", [0, 1, 2, 3])
BOUND = 1e-9


@cache
def serial(setup: Setup) -> np.ndarray:
    return np.array(
        Zero(
            Mesh(ranks=[world().rank]), replace(setup, zero=0, micro_batch=0, sequence_parallel=False)
        ).train()
    )


def check(mesh: Mesh, setup: Setup) -> None:
    run = np.array(Zero(mesh, setup).train())
    expected = serial(setup)
    worst = np.abs(run - expected).max(1) / np.abs(expected).max(1)
    assert (np.abs(run - expected) <= BOUND * np.abs(expected)).all(), f"relative, by step: {worst}"
    assert expected[-1, 0] < expected[0, 0] - (0.005 if setup.optimizer == "sgd" else 0.3)  # it learns


@cpu_alone
@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("style", ["gpt2", "llama"])
@stages
@meshes
def test_twenty_steps_equal_serial(axes, zero, style, micro_batch, make_mesh):
    check(make_mesh(**axes), Setup(zero, style, micro_batch))


@cpu_alone
@pytest.mark.skipif(SIZE != 4, reason="of dp=2,tp=2")
@pytest.mark.parametrize("style", ["gpt2", "llama"])
@stages
def test_with_sequence_parallelism(zero, style, make_mesh):
    check(make_mesh(dp=2, tp=2), Setup(zero, style, 1, True))


@cpu_alone
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@stages
def test_every_optimizer(zero, optimizer, make_mesh):
    check(make_mesh(**MESHES[-1]), Setup(zero, optimizer=optimizer))


# ---- where things lie ----------------------------------------------------------------------------------------------


class Scaled(Module):
    """A layer whose weights are of every kind: too short to be cut evenly, without dims, without a gradient, shared."""

    def __init__(self, mesh: Mesh) -> None:
        self.inner = Linear("inner", 3, 3, mesh, dtype="float64")
        self.scale = parameter("scale", (), mesh, dtype="float64")
        self.unused = parameter("unused", (2, 5), mesh, dtype="float64")
        self.shared = [self.inner.weight]

    def __call__(self, x):
        return self.inner(x).tanh() @ self.shared[0] * self.scale


class Several(Module):
    def __init__(self, mesh: Mesh) -> None:
        self.layers = {"a": Scaled(mesh), "b": [Linear("b", 3, 2, mesh, dtype="float64")]}

    def __call__(self, x):
        return self.layers["b"][0](self.layers["a"](x))


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
@stages
def test_weights_of_every_kind(zero, micro_batches, wait, make_mesh):
    """Without dims, without a gradient, fewer rows than ranks, in a list, used twice, in a dict of lists."""

    def weights(mesh, zero):
        model = sharded(lambda: Several(mesh), zero)
        optimizer = AdamW(model.parameters(), 0.1)
        for step in range(3):
            for k in range(micro_batches):
                x = randn(f"x{step}{k}", (5, 3), mesh, dtype="float64", dp=Shard(0))
                if not wait:
                    sync_in_backward(model, last=k == micro_batches - 1)
                model(x).square().sum().backward()
            sync_gradients(model)
            clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
        return {name: p.numpy() for name, p in model.named_parameters().items()}

    expected = weights(Mesh(ranks=[world().rank]), 0)
    found = weights(make_mesh(dp=SIZE), zero)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("gradients", [False, True])
def test_every_layout_goes_to_a_piece_of_the_whole_sum(gradients, make_mesh):
    for axes in MESHES:
        mesh = make_mesh(**axes)
        layouts = [each for each in every_layout(mesh, (5, 3)) if "dp" not in each]
        parameters = [weight(f"w{k}", (5, 3), mesh, **each) for k, each in enumerate(layouts)]
        shard_updates(parameters, ("dp",), gradients=gradients)
        for times in (1, 2) if gradients else (1,):
            for p in parameters:
                send_gradient(p, f"{p.name} g")
            sync_gradients(parameters)
            for p in parameters:
                assert p.grad.layout == p.leaf.target == cut(p.layout, ("dp",)) != p.layout
                expected = times * whole_gradient(p, f"{p.name} g")
                np.testing.assert_allclose(
                    p.grad.numpy(), expected, rtol=1e-12, atol=1e-12, err_msg=str(p.layout)
                )


@stages
def test_state_and_weights_are_where_the_stage_says(zero, make_mesh):
    run = Zero(make_mesh(dp=SIZE), Setup(zero))
    run.gradients(0)
    whole = sum(p.size for p in map(np.empty, (p.shape for p in run.model.parameters())))
    held = sum(p.local.size for p in run.model.parameters())
    state = sum(x.local.size for x in run.optimizer.moments.tensors().values())
    grads = sum(p.leaf.value.size for p in run.model.parameters())
    full = sum(p.leaf.buffer.size for p in run.model.parameters() if p.leaf.buffer is not None)
    slack = 0.02 * whole  # what does not divide
    few = whole / SIZE + slack
    assert (held <= few) == (zero == 3 or SIZE == 1)
    assert (state <= 2 * few) == (zero >= 1 or SIZE == 1)
    assert (grads <= few) == (zero >= 1 or SIZE == 1)
    assert (full <= few) == (zero >= 2 or SIZE == 1)


def test_the_cut_is_the_innermost_and_of_a_dim_that_is_long_enough():
    grid = Mesh(ranks=[world().rank], tp=1).grid
    grid = type(grid)(("dp", "tp"), (4, 2), ("dp", "tp"))

    def words(shape, **placements):
        return cut(Layout.make(grid, shape, placements), ("dp",)).words

    assert words((8, 3)) == "dp=Shard(0)"
    assert words((3, 8)) == "dp=Shard(1)"
    assert words((8, 3), tp=Shard(0)) == "tp=Shard(0) dp=Shard(0)"
    assert words((7, 9), tp=Shard(0)) == "tp=Shard(0) dp=Shard(1)"  # 4 and 3 rows
    assert words((3, 2)) == "dp=Shard(0)"  # a rank without a row
    assert words(()) == ""
    assert words((8,), dp=Shard(0)) == "dp=Shard(0)"


# ---- evaluation, sampling ------------------------------------------------------------------------------------------


def seen(mesh, zero):
    run = Zero(mesh, Setup(zero))
    run.train(0, 2)
    run.model.eval()
    with no_grad():
        losses = [
            run.model.loss(part.tokens, part.targets).allreduce(*run.batches.axes, "tp").item()
            for part in run.batches.validation(2)
        ]
    run.model.train()
    return losses, sample(run.model, b"ab", 4), run.train(2, 4)


@cache
def seen_by_one_rank():
    return seen(Mesh(ranks=[world().rank]), 0)


@stages
@meshes
def test_evaluation_and_samples_are_those_of_one_rank(axes, zero, make_mesh):
    losses, text, after = seen(make_mesh(**axes), zero)
    one_losses, one_text, one_after = seen_by_one_rank()
    np.testing.assert_allclose(losses, one_losses, rtol=BOUND)
    assert text == one_text
    np.testing.assert_allclose(after, one_after, rtol=BOUND)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_an_unknown_stage_is_refused(make_mesh):
    with pytest.raises(UsageError, match="ZeRO stage 4: write 0, 1, 2 or 3"):
        sharded(lambda: Several(make_mesh(dp=SIZE)), 4)


def test_a_weight_of_the_model_itself_is_refused(make_mesh):
    with pytest.raises(
        UsageError, match=r"'unused' is one of the model itself: put it into a module of its own"
    ):
        sharded(lambda: Scaled(make_mesh(dp=SIZE)), 3)


@pytest.mark.skipif(SIZE == 1, reason="one rank waits for nobody")
def test_a_step_before_the_sync_is_over_raises(make_mesh):
    for zero in (0, 1, 2):
        run = Zero(make_mesh(dp=SIZE), Setup(zero))
        run.model.eval()
        sync_in_backward(run.model)
        part = next(run.batches.training(0))
        run.model.loss(part.tokens, part.targets).backward()
        with pytest.raises(GraphError, match=r"optimizer.step: .*Call sync_gradients\(model\)"):
            run.optimizer.step()
        sync_gradients(run.model)
        run.optimizer.step()


def test_a_backward_that_skips_the_end_of_a_module_raises(make_mesh):
    """It would run with the weights of another module."""
    mesh = make_mesh(dp=SIZE)

    class Leaky(ParallelMLP):
        def __call__(self, x):
            self.seen = self.up(x)
            return self.down(self.seen.gelu())

    class Two(Module):
        def __init__(self):
            self.layers = [
                Leaky("one", 4, 8, mesh, dtype="float64"),
                Leaky("two", 4, 8, mesh, dtype="float64"),
            ]

    model = sharded(Two, 3)
    x = randn("x", (SIZE, 4), mesh, dtype="float64", dp=Shard(0))
    x = model.layers[0](x)
    model.layers[1](x)
    with pytest.raises(
        GraphError, match=r"the backward of the module of 'one\.up\.weight' ran without its weights"
    ):
        model.layers[0].module.seen.square().sum().backward()


def test_weights_that_change_between_forward_and_backward_are_noticed(make_mesh):
    """Each rank has a part of them, so each raises."""
    mesh = make_mesh(dp=SIZE)

    class One(Module):
        def __init__(self):
            self.layers = [Linear("one", 8, 8, mesh, dtype="float64")]

    model = sharded(One, 3)
    loss = model.layers[0](randn("x", (SIZE, 8), mesh, dtype="float64", dp=Shard(0))).square().sum()
    with no_grad():
        model.parameters()[0].mul_(2.0)
    with pytest.raises(GraphError, match=r"'gather': a value .* was changed in place"):
        loss.backward()
