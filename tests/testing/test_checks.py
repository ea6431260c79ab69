"""The checks that mpipar.testing offers catch what they are for, with messages that help, and raise on all ranks alike.

Each test breaks something on purpose. A failure means that the law's check would let that mistake through.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import pytest
from grids import MIXED, ONE_AXIS

import mpipar as mp
from mpipar import Mesh, Partial, Replicate, Shard, Tensor
from mpipar.job import world
from mpipar.layout import Cut, Layout
from mpipar.nn import LayerNorm, Module
from mpipar.ops import Context, op
from mpipar.ops.arithmetic import linear_rule, nonlinear_rule
from mpipar.parallel import sync, sync_gradients
from mpipar.tensor import moves
from mpipar.tensor.apply import apply
from mpipar.testing import (
    Tally,
    check_every_placement,
    check_grads,
    check_moves,
    check_parallel,
    count_collectives,
    legal_placements,
)
from mpipar.testing.findings import Findings

F64 = {"dtype": "float64"}


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@pytest.fixture
def x(mesh):
    return mp.randn("x", (5, 3), mesh, **F64)


def caught(mesh: Mesh, match: str = "") -> AbstractContextManager[object]:
    """AssertionError, on more than one rank."""
    return pytest.raises(AssertionError, match=match) if mesh.size > 1 else nullcontext()


# ---- check_grads -----------------------------------------------------------------------------------------------


@op(nonlinear_rule)
def wrong_square(context: Context, x):
    return x * x, (lambda g: g * x,)


@op(linear_rule)
def scaled_in_place(context: Context, x):
    def vjp(g):
        g *= 2
        return g

    return x * 2, (vjp,)


def summed_by_itself(mesh: Mesh):
    """Megatron's f, an identity whose backward is an allreduce: here the duals have said that already."""

    @op(linear_rule)
    def f(context: Context, x):
        return x * 1, (mesh["tp"].allreduce,)

    return lambda x: apply(f, x)


def test_check_grads_catches_a_wrong_vjp(mesh, x):
    with pytest.raises(AssertionError, match=r"element \[0, 0\] of x \(5, 3\).*against.*is allowed"):
        check_grads(lambda x: apply(wrong_square, x), x, directions=0)
    with pytest.raises(AssertionError, match="along random direction 0"):
        check_grads(lambda x: apply(wrong_square, x), x, elements=0)


def test_check_grads_catches_an_operation_that_sums_its_own_gradient(mesh, x):
    with caught(mesh, "the dot test over ranks"):
        check_grads(summed_by_itself(mesh), x, elements=0)
    alone = Mesh(ranks=[world().rank], device=mesh.xp)
    check_grads(summed_by_itself(alone), mp.randn("x", (5, 3), alone, **F64))  # right on one rank


def test_check_grads_catches_a_vjp_that_changes_the_gradient_in_place(x):
    with pytest.raises(AssertionError, match="f or its vjp changed the gradient that it was handed in place"):
        check_grads(lambda x: apply(scaled_in_place, x), x)


def test_check_grads_wants_float64_and_inputs(mesh):
    with pytest.raises(TypeError, match=r"input 0 is float32.*write x.astype\('float64'\)"):
        check_grads(lambda x: x * 2, mp.randn("x", (5, 3), mesh))
    with pytest.raises(TypeError, match="no inputs"):
        check_grads(lambda: None)


# ---- check_parallel --------------------------------------------------------------------------------------------


@op(linear_rule)
def tanh_of_anything(context: Context, x):
    y = context.xp.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


@op(linear_rule)
def a_little_more_on_the_last_rank(context: Context, x):
    return x * (1 + 2.3e-16 * (sum(context.coords) > 0)), (lambda g: g,)


class Shift(Module):
    """A layer that adds a weight, which may bear another name on each rank."""

    def __init__(self, mesh: Mesh, per_rank: bool = False) -> None:
        name = f"shift {mesh.rank if per_rank else 0}"
        self.weight = mp.parameter(name, (3,), mesh, **F64)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_check_parallel_catches_a_rule_that_takes_too_much(mesh, x):
    def f(x):
        return apply(tanh_of_anything, x)

    check_parallel(f, mp.randn("x", (5, 3), mesh, **F64, tp=Shard(0)))
    with caught(mesh, r"tp=Partial\(\): output \(5, 3; tp=Partial\(\)\): .* apart at .*, 1e-12 is allowed"):
        check_every_placement(f, x)


def test_check_parallel_catches_copies_that_differ_in_their_last_bit(mesh, x):
    with caught(mesh, r"output \(5, 3\): copies differ in their bits"):
        check_parallel(lambda x: apply(a_little_more_on_the_last_rank, x), x)


def test_check_parallel_catches_another_shape(mesh, x):
    with caught(mesh, r"output: \(5, \d\), and \(5, 1\) on one rank"):
        check_parallel(lambda x: x[:, : min(3, x.mesh.size)], x)


def test_check_parallel_compares_the_weights_of_a_module_by_name(mesh, x):
    def doubled(layer: LayerNorm, x: Tensor) -> Tensor:
        return layer(x) + (layer.gain * 1e-6).sum() if x.mesh.size > 1 else layer(x)

    def make(mesh: Mesh) -> LayerNorm:
        return LayerNorm("norm", 3, mesh, **F64)

    check_parallel(LayerNorm.__call__, x, make=make)
    with caught(mesh, "gradient of 'norm.gain'"):
        check_parallel(doubled, x, make=make)


def test_check_parallel_moves_weights_off_zero(mesh):
    """A bias that starts at 0 and is added once on each rank."""

    def f(layer: LayerNorm, x: Tensor) -> Tensor:
        return (x + layer.bias.redistribute(tp=Partial()) * layer.bias.mesh.shape["tp"]).allreduce("tp")

    owed = mp.randn("x", (5, 3), mesh, **F64, tp=Partial())
    with caught(mesh, "output"):
        check_parallel(f, owed, make=lambda mesh: LayerNorm("norm", 3, mesh, **F64))


def test_check_parallel_catches_names_that_depend_on_the_rank(mesh, x):
    with caught(
        mesh, "ranks compared different things: gradient of 'shift 0' on rank 0, nothing more on rank 1"
    ):
        check_parallel(Shift.__call__, x, make=lambda mesh: Shift(mesh, per_rank=mesh.size > 1))


# ---- legal_placements and count_collectives --------------------------------------------------------------------


def test_legal_placements_asks_the_function(make_mesh, mesh, x):
    found = [c["tp"] for (c,) in legal_placements(lambda x: x.softmax(0), x)]
    assert found == [Replicate(), Shard(1)]
    assert [c["tp"] for (c,) in legal_placements(lambda x: x.allreduce("tp"), x)] == [Partial()]
    wide = make_mesh(**MIXED)
    x = mp.randn("x", (5, 3), wide, **F64)
    assert (
        len(list(legal_placements(lambda x: -x, x))) == 18
    )  # 4 × 4, and two dims that both axes cut, in two orders
    assert len(list(legal_placements(lambda x: -x, x, axes=["tp"]))) == 4


def test_legal_placements_lets_other_errors_out(x):
    with pytest.raises(ValueError, match="reshape"):
        list(legal_placements(lambda x: x.reshape(4, 4), x))


def test_count_collectives_counts_calls_and_bytes_inside_the_block(mesh):
    y = mp.randn("y", (8, 4), mesh, tp=Partial())
    with count_collectives(mesh) as counts:
        y.allreduce("tp")
        y.allreduce("tp")
    y.allreduce("tp")
    assert counts == ({("tp", "allreduce"): Tally(calls=2, bytes=2 * 128)} if mesh.size > 1 else {})


# ---- all ranks alike -------------------------------------------------------------------------------------------


def test_a_finding_on_one_rank_raises_on_all(mesh):
    findings = Findings(mesh)
    findings.expect(mesh.rank != mesh.size - 1, "the last one is wrong")
    with pytest.raises(
        AssertionError, match=rf"title on Mesh.*:\n  rank {mesh.size - 1}: the last one is wrong"
    ):
        findings.settle("title", 1e-12)


def test_many_findings_are_cut_short(mesh):
    findings = Findings(mesh)
    for k in range(9):
        findings.expect(mesh.rank > 0, f"number {k}")
    with pytest.raises(AssertionError, match=r"number 4\n  and 4 more"):
        findings.settle("title", 1e-12)


# ---- mutants: each of these mistakes in the package fails a law -------------------------------------------------


@pytest.mark.parametrize(
    ("row", "other"),
    [
        ((Partial, Replicate), (Replicate, Partial)),
        ((Replicate, Shard), (Partial, Shard)),
        ((Shard, Replicate), (Shard, Partial)),
    ],
)
def test_two_rows_of_the_table_of_moves_swapped(row, other, mesh, monkeypatch):
    table = dict(moves.TABLE)
    monkeypatch.setitem(moves.TABLE, row, table[other])
    monkeypatch.setitem(moves.TABLE, other, table[row])
    with caught(mesh, "dot test|apart|a piece of"):
        check_moves(mesh, (5, 3))


def test_the_outer_of_two_cuts_gathered_first(make_mesh, monkeypatch):
    def without(layout: Layout, axis: str) -> Layout:
        dim = layout.cut_dims.get(axis)
        if dim is None:
            return Layout(layout.grid, layout.cuts, layout.partial - {axis})
        rest = [other for other in layout.cuts[dim].axes if other != axis]
        cut = reduce(lambda cut, a: cut.split(a, layout.grid.size(a)), rest, Cut((), (0, layout.shape[dim])))
        return layout.with_cut(dim, cut)

    mesh = make_mesh(ranks=(world().rank,), dp=1, tp=1)
    check_moves(mesh, (5, 3))
    monkeypatch.setattr(Layout, "_without", without)
    with pytest.raises(AssertionError, match=r"dp=Shard\(0\) to Replicate\(\): the outer cut was moved"):
        check_moves(mesh, (5, 3))


def gradient_after(mesh: Mesh, train: Callable[[Tensor, Tensor], None]) -> Tensor:
    w, x = mp.parameter("w", (3, 3), mesh, **F64), mp.randn("x", (5, 3), mesh, **F64)
    train(w, x)
    assert w.grad is not None
    return w.grad


def check_training(mesh: Mesh, train: Callable[[Tensor, Tensor], None]) -> None:
    """The gradient of a weight that is Replicate against one rank's."""
    alone = Mesh(ranks=[world().rank], device=mesh.xp)
    findings = Findings(mesh)
    findings.value("gradient", gradient_after(mesh, train), gradient_after(alone, train).numpy())
    findings.settle("training", 1e-12)


def test_the_loss_seeded_with_one_on_every_rank(mesh, monkeypatch):
    def train(w: Tensor, x: Tensor) -> None:
        (x @ w).square().sum().backward()

    check_training(mesh, train)
    monkeypatch.setattr(Layout, "is_first", lambda self, coords: True)
    with caught(mesh, "gradient"):
        check_training(mesh, train)


def test_the_sum_of_one_replicated_gradient_dropped(mesh, monkeypatch):
    def train(w: Tensor, x: Tensor) -> None:
        (x.redistribute(tp=Shard(0)) @ w).square().sum().backward()
        sync_gradients([w])

    check_training(mesh, train)

    def summed(bucket, wire):
        yield from ()
        for p in bucket.parameters:
            p.leaf.moved(p.layout)

    monkeypatch.setattr(sync, "summed", summed)
    with caught(mesh, "gradient"):
        check_training(mesh, train)
