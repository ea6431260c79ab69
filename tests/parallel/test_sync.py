"""Gradient sync: afterwards every gradient is the whole sum, laid out as its weight; nothing is summed twice.

A failure names the layout of the weight. A value too large by the number of ranks was summed twice, one too small not
at all.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import every_layout, local_bytes, send_gradient, weight, whole_gradient

from mpipar import GraphError, Shard, Tensor
from mpipar.job import world
from mpipar.nn import Linear
from mpipar.optim import SGD
from mpipar.parallel import sync_gradients
from mpipar.testing import Tally, count_collectives


def check(parameters, name="g", times=1):
    """Each gradient is that many times the whole one, and as its weight where that is cut, alike where it is not."""
    for p in parameters:
        assert p.grad.layout == p.layout
        expected = times * whole_gradient(p, f"{p.name} {name}")
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-12, atol=1e-12, err_msg=str(p.layout))


def send(parameters, name="g"):
    for p in parameters:
        send_gradient(p, f"{p.name} {name}")


@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_every_layout_gets_the_whole_sum(axes, make_mesh):
    mesh = make_mesh(**axes)
    layouts = every_layout(mesh, (5, 3))
    parameters = [weight(f"w{k}", (5, 3), mesh, **placements) for k, placements in enumerate(layouts)]
    send(parameters)
    sync_gradients(parameters)
    check(parameters)
    whole = parameters[0]  # Replicate: the same bits on all ranks
    assert whole.layout.words == ""
    assert len(set(world().allgather_object(local_bytes([whole.grad])[0]))) == 1


@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_one_collective_a_bucket_with_exact_bytes(axes, make_mesh):
    """A bucket for each set of axes that are owed, and for each dtype."""
    mesh = make_mesh(**axes)
    parameters = [
        weight("a", (5, 3), mesh),
        weight("b", (7,), mesh, tp=Shard(0)),
        weight("c", (), mesh),
        weight("d", (3,), mesh, "float32"),
        weight("e", (4, 2), mesh, tp=Shard(1)),
    ]
    send(parameters)
    with count_collectives(mesh) as counts:
        sync_gradients(parameters)
    expected = {}
    for owed, buckets in ((("dp", "tp"), [(0, 2), (3,)]), (("dp",), [(1, 4)])):
        label = ",".join(axis for axis in owed if mesh.shape[axis] > 1)
        if label:
            n_bytes = sum(parameters[k].local.nbytes for bucket in buckets for k in bucket)
            calls, before = expected.get((label, "allreduce"), (0, 0))
            expected[label, "allreduce"] = Tally(calls + len(buckets), before + n_bytes)
    assert counts == expected


@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_a_second_sync_does_nothing(axes, make_mesh):
    mesh = make_mesh(**axes)
    parameters = [weight("w", (5, 3), mesh), weight("v", (4,), mesh, tp=Shard(0))]
    send(parameters)
    sync_gradients(parameters)
    before = local_bytes([p.grad for p in parameters])
    with count_collectives(mesh) as counts:
        sync_gradients(parameters)
        sync_gradients(parameters[::-1])
    assert counts == {}
    assert local_bytes([p.grad for p in parameters]) == before


@pytest.mark.parametrize("first", [[0], [2, 0], [0, 1, 2]])
def test_parameters_may_be_synced_in_parts(first, make_mesh):
    """What was moved already is not moved again with the rest, in the next step either."""
    mesh = make_mesh(**ONE_AXIS)
    parameters = [weight(f"w{k}", (2, k + 1), mesh) for k in range(4)]
    for name in ("g", "h"):
        send(parameters, name)
        sync_gradients([parameters[k] for k in first])
        sync_gradients(parameters)
        check(parameters, name)
        SGD(parameters, 0.1).step()


def test_what_one_optimizer_has_not_cleared_is_not_summed_again(make_mesh):
    """Of two optimizers one took its step; the gradients of the other wait as they are."""
    mesh = make_mesh(**ONE_AXIS)
    stepped, waits = parameters = [weight("stepped", (3,), mesh), weight("waits", (3,), mesh)]
    send(parameters)
    sync_gradients(parameters)
    SGD([stepped], 0.1).step()
    send([stepped])
    sync_gradients(parameters)
    check([stepped, waits])


def test_gradients_that_did_not_arrive_are_zeros(make_mesh):
    """On no rank, or on some: all ranks sync the same list, in every step."""
    mesh = make_mesh(**ONE_AXIS)
    used, unused, lonely = parameters = [weight(name, (3, 2), mesh) for name in ("used", "unused", "lonely")]
    for _ in range(2):
        send([used])
        if mesh.rank == mesh.size - 1:
            g = mesh.xp.full((3, 2), 7.0, "float64")
            lonely.backward(Tensor(g, mesh, lonely.layout.dual))
        sync_gradients(parameters)
        check([used])
        assert (unused.grad.numpy() == 0).all()
        assert (lonely.grad.numpy() == 7).all()
        SGD(parameters, 0.1).step()


def test_gradients_add_up_until_the_sync(make_mesh):
    parameters = [weight("w", (5, 3), make_mesh(**ONE_AXIS))]
    for _ in range(3):
        send(parameters)
    sync_gradients(parameters)
    check(parameters, times=3)


def test_backward_after_sync_raises_until_the_step(make_mesh):
    parameters = [weight("w", (5, 3), make_mesh(**ONE_AXIS))]
    optimizer = SGD(parameters, 0.1)
    for name in ("first", "second"):
        send(parameters, name)
        sync_gradients(parameters)
        with pytest.raises(
            GraphError, match=r"backward after sync: the gradient of 'w' .*Call optimizer\.step\(\)"
        ):
            send(parameters, name)
        check(parameters, name)
        optimizer.step()


def test_a_module_is_its_parameters(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    layer = Linear("layer", 3, 2, mesh, dtype="float64")
    send(layer.parameters())
    sync_gradients(layer)
    check(layer.parameters())
