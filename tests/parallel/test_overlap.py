"""Gradients that leave while backward runs give the bits of a sync after it, whatever graph each rank has.

A failure in bits says that a bucket left before its last gradient came; a deadlock that ranks sent in different orders.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grids import ONE_AXIS
from weights import local_bytes, weight
from zeros import Setup, Zero

from mpipar import GraphError, Shard, Tensor, randn
from mpipar.job import world
from mpipar.optim import SGD
from mpipar.parallel import sync_gradients, sync_in_backward
from mpipar.parallel.zero import shard_updates
from mpipar.testing import count_collectives

SIZE = world().size
F64 = {"dtype": "float64"}
AXES = ONE_AXIS if SIZE != 4 else {"dp": 2, "tp": 2}
many = pytest.mark.skipif(SIZE == 1, reason="one rank moves nothing")


@pytest.mark.parametrize("wire", [None, "bfloat16"])
@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_bits_are_those_of_a_sync_after_backward(zero, micro_batch, wire, make_mesh):
    mesh = make_mesh(**({"dp": SIZE} if SIZE != 4 else AXES))
    setup = Setup(zero, micro_batch=micro_batch, wire=wire)
    runs = [Zero(mesh, replace(setup, overlap=overlap)) for overlap in (True, False)]
    curves = [run.train(0, 3) for run in runs]
    assert curves[0] == curves[1]
    one, other = (local_bytes(run.model.parameters()) for run in runs)
    assert one == other


class Seen:
    """Looks at other leaves when the gradient of its own is complete."""

    def __init__(self, *parameters):
        self.parameters, self.away = parameters, []

    def arrived(self, leaf):
        self.away.append([p.leaf.away or p.leaf.layout == p.layout for p in self.parameters])


def chain(mesh, n=3):
    """x·w0·w1·…, the rows cut over all ranks; the gradient of x comes last."""
    x = randn("x", (5, 4), mesh, **F64, requires_grad=True, tp=Shard(0))
    return x, [weight(f"w{k}", (4, 4), mesh) for k in range(n)]


def product(x, ws):
    for w in ws:
        x = (x @ w).tanh()
    return x.square().sum()


@many
def test_a_bucket_leaves_while_backward_runs(make_mesh):
    x, ws = chain(make_mesh(tp=SIZE))
    loss = product(x, ws)
    sync_in_backward(ws, bucket_bytes=1)  # a bucket each
    x.leaf.watch = seen = Seen(*ws)
    middle = ws[1].leaf.watch
    order = []
    original = middle.arrived
    middle.arrived = lambda leaf: (order.append(leaf.name), original(leaf))
    loss.backward()
    assert order == ["w2", "w1", "w0"]
    assert seen.away == [[False, True, True]]
    sync_gradients(ws)
    assert all(p.grad.layout == p.layout and not p.leaf.away for p in ws)


def gradients(ws, run, sync, mesh):
    for w in ws:
        w.clear_grad()
    if sync:
        sync_in_backward(ws, bucket_bytes=1)
    run()
    sync_gradients(ws, bucket_bytes=1)
    return local_bytes([w.grad for w in ws])


def test_a_weight_that_is_used_twice_waits_for_both(make_mesh):
    mesh = make_mesh(tp=SIZE)
    x, ws = chain(mesh)
    ws = [ws[0], ws[1]]

    def run():
        product(x, [ws[0], ws[1], ws[0], ws[1]]).backward()

    assert gradients(ws, run, True, mesh) == gradients(ws, run, False, mesh)


def test_a_forward_without_backward_only_delays(make_mesh):
    mesh = make_mesh(tp=SIZE)
    x, ws = chain(mesh)

    def run():
        product(x, ws[1:])
        product(x, ws).backward()

    assert gradients(ws, run, True, mesh) == gradients(ws, run, False, mesh)


@many
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_ranks_with_different_graphs_send_in_one_order(zero, make_mesh):
    """One lacks a weight, and between backward and sync the ranks do something else together."""
    mesh = make_mesh(dp=SIZE)
    _, ws = chain(mesh)
    if zero:
        shard_updates(ws, ("dp",), gradients=zero == 2)
    x = randn("x", (5, 4), mesh, **F64, dp=Shard(0))

    def run():
        mine = ws if mesh.rank else [ws[0], ws[2]]
        loss = product(x, mine)
        loss.backward()
        assert np.isfinite(loss.allreduce("dp").item())

    assert gradients(ws, run, True, mesh) == gradients(ws, run, False, mesh)


@many
def test_nothing_leaves_before_the_last_backward(make_mesh):
    mesh = make_mesh(dp=SIZE)
    run = Zero(mesh, Setup(0, micro_batch=1))
    run.model.eval()
    first, *rest = run.batches.training(0)
    assert rest
    with count_collectives(mesh) as counts:
        sync_in_backward(run.model, last=False)
        run.model.loss(first.tokens, first.targets).backward()
    assert counts == {}
    sync_gradients(run.model)


@many
@pytest.mark.parametrize("zero", [0, 1])
def test_a_gradient_that_comes_late_raises(zero, make_mesh):
    mesh = make_mesh(dp=SIZE)
    _, ws = chain(mesh)
    if zero:
        shard_updates(ws, ("dp",), gradients=False)
    loss = product(randn("x", (5, 4), mesh, **F64, dp=Shard(0)), ws)
    sync_in_backward(ws, bucket_bytes=1)
    loss.backward(keep=True)
    with pytest.raises(
        GraphError, match=r"backward after sync: the gradient of 'w2' is .* (already|and on its way)"
    ):
        loss.backward()
    sync_gradients(ws)
    SGD(ws, 0.1).step()


@many
@pytest.mark.parametrize("zero", [0, 1])
def test_terms_of_sixteen_bits_are_summed_in_float32(zero, make_mesh):
    mesh = make_mesh(dp=SIZE)
    xp = mesh.xp
    w = weight("w", (6, 5), mesh, "float32")
    if zero:
        shard_updates([w], ("dp",), gradients=False)
    terms = [np.random.default_rng(rank).standard_normal((6, 5)).astype("float32") for rank in range(SIZE)]
    w.backward(Tensor(xp.from_host(terms[mesh.rank]), mesh, w.layout.dual))
    with count_collectives(mesh) as counts:
        sync_gradients([w], wire="bfloat16")

    def rounded(x):
        return xp.cast(xp.cast(xp.from_host(x), "bfloat16"), "float32")

    total = rounded(terms[0])
    for term in terms[1:]:
        total = total + rounded(term)
    expected = xp.to_host(total if zero else rounded(xp.to_host(total)))  # one more rounding on the way back
    assert str(w.grad.dtype) == "float32"
    np.testing.assert_array_equal(w.grad.numpy(), expected)
    assert sum(tally.bytes for tally in counts.values()) == 2 * (
        w.local.size - (w.leaf.value.size if zero else 0)
    )
