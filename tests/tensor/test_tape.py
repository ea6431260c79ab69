"""The tape: where backward starts, in which order it runs, what it keeps, and where gradients go.

A failure of an order or of a seed shows on several ranks only; run it with `mpirun -n 3`.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import ref

import numpy as np
import pytest
from grids import ONE_AXIS, all_grids, cpu_alone, two_axes

from mpipar import (
    GraphError,
    Partial,
    PlacementError,
    Replicate,
    Shard,
    Tensor,
    no_grad,
    ones,
    parameter,
    randn,
    zeros,
)
from mpipar.ops import Context, op
from mpipar.ops.arithmetic import linear_rule
from mpipar.optim import SGD
from mpipar.parallel import sync_gradients
from mpipar.tensor.apply import apply
from mpipar.testing import check_every_placement, check_grads, check_parallel
from mpipar.testing.placements import placements_of

F64 = {"dtype": "float64"}


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


def weight(mesh, name="w", shape=(3, 3), **placements) -> Tensor:
    return parameter(name, shape, mesh, **F64, **placements)


# ---- the seed --------------------------------------------------------------------------------------------------


@all_grids
def test_a_loss_on_any_placement_gives_the_gradient_of_one_loss(axes, make_mesh):
    """The seed is the dual of the loss: nothing is scaled by the number of ranks."""
    mesh = make_mesh(**axes)
    for placement in (Replicate(), Partial()):
        w = weight(mesh)
        loss = w.square().sum().redistribute(**dict.fromkeys(axes, placement))
        loss.backward()
        np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy(), rtol=1e-14)


@two_axes
def test_a_loss_that_is_owed_on_one_axis_only(axes, make_mesh):
    mesh = make_mesh(**axes)
    x, w = randn("x", (5, 3), mesh, **F64, dp=Shard(0)), weight(mesh, tp=Shard(1))
    loss = (x @ w).square().sum((0, 1)).allreduce("tp")
    assert loss.placements["dp"] == Partial()
    loss.backward()
    whole = x.numpy()
    np.testing.assert_allclose(w.grad.numpy(), 2 * whole.T @ whole @ w.numpy(), rtol=1e-13)


def test_backward_takes_a_gradient_of_any_shape(mesh):
    w = weight(mesh, tp=Shard(0))
    y = w.square()
    y.backward(ones((3, 3), mesh, **F64, tp=Shard(0)))
    np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy(), rtol=1e-14)


def test_backward_refuses_what_is_no_gradient(mesh):
    w = weight(mesh)
    with pytest.raises(GraphError, match=r"a scalar is wanted; write x.sum\(\) or pass gradient="):
        w.square().backward()
    with pytest.raises(PlacementError, match=r"the gradient is \(3, 3\).*tp=Partial\(\).* is wanted"):
        w.square().backward(ones((3, 3), mesh, **F64))
    with pytest.raises(GraphError, match="nothing here requires a gradient"):
        ones((), mesh).backward()


def test_backward_of_a_leaf(mesh):
    x = randn("x", (), mesh, **F64, requires_grad=True)
    x.backward()
    assert float(x.grad.numpy()) == 1


# ---- what is recorded ------------------------------------------------------------------------------------------


def test_no_grad_records_nothing_and_ends_with_its_block(mesh):
    w = weight(mesh)
    with no_grad():
        assert not (w * 2).requires_grad
        with no_grad():
            pass
        assert not w.sum().requires_grad
    assert (w * 2).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        _ = 1 / 0
    assert (w * 2).requires_grad


def test_what_needs_no_gradient_is_not_recorded(mesh):
    x, w = randn("x", (3, 3), mesh, **F64), weight(mesh)
    assert not (x @ x).requires_grad
    assert not (w * 2).detach().requires_grad
    ((x * 2) @ w).sum().backward()
    assert x.grad is None
    assert weight(mesh).grad is None


# ---- many uses of one tensor -----------------------------------------------------------------------------------


@all_grids
def test_a_weight_that_is_used_twice_has_the_sum_of_both_gradients(axes, make_mesh):
    mesh = make_mesh(**axes)

    def f(x, w):
        y = (x @ w).tanh() @ w
        return y + y * y + x

    x, w = randn("x", (5, 3), mesh, **F64), randn("w", (3, 3), mesh, **F64)
    check_grads(f, x, w)
    assert check_every_placement(f, x, w) > 1


@all_grids
def test_one_value_with_consumers_of_every_kind(axes, make_mesh):
    """Column-parallel, sharded, kept on the first rank, and as it is: all hand back what the duals say."""
    mesh = make_mesh(**axes)

    def f(x, a, b):
        y = x.tanh()
        column = (y @ a).tanh() @ b  # Partial over tp
        sharded = y.redistribute(tp=Shard(0)).tanh().redistribute(tp=Partial())
        owed = column + sharded + y.tanh().redistribute(tp=Partial())
        whole, pieces = owed.allreduce("tp"), owed.reduce_scatter("tp", dim=1)
        return whole * y + pieces.square().allgather("tp")

    x, a, b = (
        randn("x", (5, 3), mesh, **F64),
        randn("a", (3, 7), mesh, **F64, tp=Shard(1)),
        randn("b", (7, 3), mesh, **F64, tp=Shard(0)),
    )
    check_parallel(f, x, a, b)
    check_grads(f, x, a, b, elements=0)


# ---- order and memory ------------------------------------------------------------------------------------------


def tracing(log: list[str], name: str, on_vjp: Callable[[], None] = lambda: None):
    """An operation that is the identity and says when its vjp runs."""

    @op(linear_rule)
    def traced(context: Context, x):
        def vjp(g):
            log.append(name)
            on_vjp()
            return g

        return x * 1, (vjp,)

    return lambda x: apply(traced, x)


def test_backward_runs_in_the_reverse_order_of_creation_on_every_rank(mesh):
    log: list[str] = []
    a, b, c, d, e = (tracing(log, name) for name in "abcde")
    x = randn("x", (3,), mesh, **F64, requires_grad=True)
    y1 = a(x)
    y2 = b(x)
    y3 = c(y2)
    y4 = d(y1)
    e(y1 + y4 + y3).sum().backward()
    assert log == ["e", "d", "c", "b", "a"]
    assert mesh.world.allgather_object(log) == [log] * mesh.size


def test_only_what_is_wanted_is_computed(mesh):
    log: list[str] = []
    x, w = randn("x", (3,), mesh, **F64), randn("w", (3,), mesh, **F64, requires_grad=True)
    (tracing(log, "x")(x) * tracing(log, "w")(w)).sum().backward()
    assert log == ["w"]


def test_the_graph_is_freed_unless_it_is_kept(mesh):
    w = weight(mesh)
    loss = w.square().sum()
    loss.backward(keep=True)
    loss.backward()
    np.testing.assert_allclose(w.grad.numpy(), 4 * w.numpy(), rtol=1e-14)
    with pytest.raises(
        GraphError, match=r"'sum' a second time: its graph was freed. Write backward\(keep=True\)"
    ):
        loss.backward()


@cpu_alone
def test_what_a_node_saved_is_freed_before_the_next_vjp_runs(mesh):
    x = randn("x", (3,), mesh, **F64, requires_grad=True)
    alive = []
    y = tracing([], "x", lambda: alive.append(saved() is not None))(x).exp()
    saved = ref(y.local)  # exp saves its result
    y = y.sum()
    y.backward()
    assert alive == [False]


# ---- where gradients go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_gradients_add_in_place_into_the_buffer_that_was_given(keep, mesh):
    for placement in placements_of(2):
        w = weight(mesh, tp=placement)
        if keep:
            (w * 3).sum((0, 1)).backward()
        buffer = mesh.xp.full(w.local.shape, 7.0, "float64")
        w.leaf.adopt(buffer)
        w.sum().backward()
        w.sum().backward()
        assert w.grad.local is buffer
        assert w.grad.layout == w.layout.dual
        np.testing.assert_array_equal(w.grad.numpy(), np.full((3, 3), 5.0 if keep else 2.0))


def test_a_cleared_gradient_starts_anew_in_the_same_buffer(mesh):
    w = weight(mesh)
    buffer = mesh.xp.zeros(w.local.shape, "float64")
    w.leaf.adopt(buffer)
    w.sum().backward()
    w.clear_grad()
    assert w.grad is None
    (w * 2).sum().backward()
    assert w.grad.local is buffer
    np.testing.assert_array_equal(w.grad.numpy(), np.full((3, 3), 2.0))


def test_gradients_arrive_where_the_caller_cannot_change_them(mesh):
    w = weight(mesh, shape=(3,))
    g = zeros((3,), mesh, **F64, tp=Partial())
    (w + w.detach()).backward(g)
    mesh.xp.fill(g.local, 9.0)
    np.testing.assert_array_equal(w.grad.numpy(), np.zeros(3))


@all_grids
def test_backward_after_sync_raises_until_the_step(axes, make_mesh):
    mesh = make_mesh(**axes)
    w = weight(mesh, "layer.weight")
    optimizer = SGD([w], 0.1)
    for _ in range(2):
        w.square().sum().backward()
        sync_gradients([w])
        assert w.grad.layout == w.layout
        with pytest.raises(
            GraphError, match=r"backward after sync: the gradient of 'layer.weight'.*optimizer.step"
        ):
            w.square().sum().backward()
        np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy(), rtol=1e-14)
        optimizer.step()
        assert w.grad is None


@all_grids
def test_sync_sums_what_is_owed_and_counts_a_missing_gradient_as_zero(axes, make_mesh):
    mesh = make_mesh(**axes)
    placements = dict.fromkeys(axes, Shard(0))
    used, unused, cut = weight(mesh, "used"), weight(mesh, "unused"), weight(mesh, "cut", **placements)
    x = randn("x", (5, 3), mesh, **F64, **placements)
    ((x @ used).sum() + cut.sum()).backward()
    sync_gradients([used, unused, cut])
    for w, expected in ((used, np.repeat(x.numpy().sum(0)[:, None], 3, 1)), (unused, 0), (cut, 1)):
        assert w.grad.layout == w.layout
        np.testing.assert_allclose(w.grad.numpy(), np.broadcast_to(expected, (3, 3)), rtol=1e-13)
