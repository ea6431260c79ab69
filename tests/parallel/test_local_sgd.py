"""Local SGD: what replicas do between meetings is their own, and a meeting is one allreduce of the weights' bytes.

A failure of the first test: the mean of the replicas' weights, against what the meeting gave.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import TWO_AXES, grid_name
from weights import local_bytes, weight

from mpipar import Shard, Tensor, UsageError
from mpipar.checkpoint import load, save
from mpipar.nn.pieces import piece
from mpipar.optim import SGD, AdamW
from mpipar.parallel import (
    LocalSGD,
    outer_weights,
    over_replicas,
    replica_mesh,
    shared_weights,
    sync_gradients,
)
from mpipar.testing import Tally, count_collectives
from mpipar.testing.values import represented

meshes = pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)


class Replica:
    """Two weights, one of them cut over tp, that follow gradients of this replica alone."""

    def __init__(self, mesh, inner=AdamW, dtype="float64", **outer):
        self.mesh, self.own = mesh, replica_mesh(mesh)
        self.parameters = [
            weight("a", (5, 3), self.own, dtype, tp=Shard(1)), weight("b", (4,), self.own, dtype)
        ]  # fmt: skip
        self.inner = inner(self.parameters, 0.1, weight_decay=0.0)
        self.outer = LocalSGD(self.parameters, self.inner, mesh, **outer)

    def backward(self, name):
        send(self.parameters, f"{name} {self.mesh['dp'].rank}")

    def step(self, name):
        self.backward(name)
        return self.outer.step()

    def state(self):
        """Bit by bit, all that goes on."""
        state = self.outer.start.state_dict() | self.outer.state_dict()
        return {name: local_bytes([x])[0] if isinstance(x, Tensor) else x for name, x in state.items()}


def send(parameters, name):
    for p in parameters:
        dual = p.layout.dual
        g = represented(p.mesh, dual, f"{p.name} {name}", "float64")
        p.backward(Tensor(p.mesh.xp.cast(g, p.mesh.xp.widen(p.local).dtype), p.mesh, dual))
    sync_gradients(parameters)


def host(p):
    return p.mesh.xp.to_host(p.mesh.xp.widen(p.local))


def mean(mesh, x):
    return sum(mesh["dp"].allgather_object(x)) / mesh.shape["dp"]


@meshes
def test_a_meeting_after_each_step_is_the_plain_mean(axes, make_mesh):
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=1, outer_lr=1.0, outer_momentum=0.0)
    alone = Replica(mesh, inner_steps=10**9)
    for name in ("first", "second"):
        for mine, theirs in zip(alone.parameters, run.parameters, strict=True):
            mesh.xp.copy_into(mine.local, theirs.local)
        assert not alone.step(name)
        assert run.step(name)
        for p, single in zip(run.parameters, alone.parameters, strict=True):
            np.testing.assert_allclose(
                mesh.xp.to_host(p.local), mean(mesh, host(single)), rtol=1e-14, atol=1e-14
            )


@meshes
def test_with_plain_sgd_it_is_then_the_synchronous_run(axes, make_mesh):
    """Whose gradient is the mean of those of the replicas."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, SGD, inner_steps=1, outer_lr=1.0, outer_momentum=0.0)
    same = Replica(mesh, SGD, inner_steps=10**9)
    for step in range(3):
        run.step(f"{step}")
        same.backward(f"{step}")
        for p in same.parameters:
            whole = mean(mesh, mesh.xp.to_host(p.leaf.value))
            mesh.xp.copy_into(p.leaf.value, mesh.xp.from_host(whole, "float64"))
        same.inner.step()
    for p, synchronous in zip(run.parameters, same.parameters, strict=True):
        np.testing.assert_allclose(host(p), host(synchronous), rtol=1e-13, atol=1e-13)


@meshes
def test_a_meeting_is_nesterovs_step_along_the_mean_difference(axes, make_mesh):
    """Douillard et al. 2023, algorithm 1: v ← μv + Δ, θ ← θ - η(Δ + μv)."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=3)
    theta = [host(p) for p in run.parameters]
    velocity = [np.zeros_like(x) for x in theta]
    for meeting in range(2):
        for k in range(2):
            assert not run.step(f"{meeting} {k}")
        held = watched(run)
        assert run.step(f"{meeting} 2")
        for k, p in enumerate(run.parameters):
            delta = theta[k] - mean(mesh, held[k])
            velocity[k] = 0.9 * velocity[k] + delta
            theta[k] = theta[k] - 0.7 * (delta + 0.9 * velocity[k])
            np.testing.assert_allclose(mesh.xp.to_host(p.local), theta[k], rtol=1e-12, atol=1e-12)
        assert len(set(mesh["dp"].allgather_object(tuple(local_bytes(run.parameters))))) == 1


def watched(run):
    """What the weights are after the next inner step, before the replicas meet; of 16-bit ones their masters."""
    held, before = [], run.inner.step

    def step():
        before()
        masters = run.inner.state_dict()
        held.extend(host(masters.get(f"master/{p.name}", p)) for p in run.parameters)
        run.inner.step = before

    run.inner.step = step
    return held


@meshes
@pytest.mark.parametrize("inner", [AdamW, SGD])
def test_small_steps_of_16_bit_weights_are_not_lost(axes, inner, make_mesh):
    """Replicas differ, and begin again, in the float32 masters: not in what was rounded."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner, "bfloat16", inner_steps=2, outer_lr=1.0, outer_momentum=0.0)
    run.outer.lr = 1e-5  # of weights around 1, in steps of 2⁻⁸
    for k in range(3):
        assert not run.step(f"{k} a")
        held = watched(run)
        assert run.step(f"{k} b")
        for p, x in zip(run.parameters, held, strict=True):
            theta = mesh.xp.to_host(run.outer.anchors[p.name])
            np.testing.assert_allclose(theta, mean(mesh, x), rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(
                mesh.xp.to_host(run.inner.state_dict()[f"master/{p.name}"].local), theta
            )
            assert mesh.xp.to_host(p.local == mesh.xp.cast(run.outer.anchors[p.name], "bfloat16")).all()
    first = Replica(mesh, inner, "bfloat16")
    moved = [host(now) != host(then) for now, then in zip(run.parameters, first.parameters, strict=True)]
    assert not all(x.all() for x in moved)  # so that there was something to lose
    assert all(
        (mesh.xp.to_host(run.outer.anchors[p.name]) != host(p)).any() for p in run.parameters if piece(p).size
    )


@meshes
def test_the_last_meeting_is_at_the_end(axes, make_mesh):
    run = Replica(make_mesh(**axes), inner_steps=3, last=5)
    assert [run.step(f"{k}") for k in range(5)] == [False, False, True, False, True]
    assert (run.outer.steps, run.outer.since) == (5, 0)


@meshes
def test_outer_weights_are_those_of_the_last_meeting(axes, make_mesh):
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=2)
    for name in ("a", "b"):
        run.step(name)
    met = local_bytes(run.parameters)
    run.step("c")
    apart = local_bytes(run.parameters)
    assert apart != met
    with outer_weights(run.outer):
        assert local_bytes(run.parameters) == met
    assert local_bytes(run.parameters) == apart
    with outer_weights(run.inner):
        assert local_bytes(run.parameters) == apart
    assert shared_weights(run, run.inner) is run
    assert local_bytes(list(shared_weights(run, run.outer).state_dict().values())) == met


@meshes
def test_its_bytes_are_the_weights_once_in_so_many_steps(axes, make_mesh):
    """The synchronous run sends them at each step: docs/local-sgd.md."""
    mesh = make_mesh(**axes)
    run, steps, every = Replica(mesh, inner_steps=4), 8, 4
    weights = sum(p.local.nbytes for p in run.parameters)
    with count_collectives(mesh) as counts:
        for k in range(steps):
            run.step(f"{k}")
    meetings = steps // every
    over_dp = {key: tally for key, tally in counts.items() if "dp" in key[0]}
    assert over_dp == ({("dp", "allreduce"): Tally(meetings, meetings * weights)} if axes["dp"] > 1 else {})
    inside = Tally(steps, steps * run.parameters[1].local.nbytes)
    assert {key: counts[key] for key in counts.keys() - over_dp.keys()} == (
        {("tp", "allreduce"): inside} if axes["tp"] > 1 else {}
    )
    synchronous = [weight("a", (5, 3), mesh, tp=Shard(1)), weight("b", (4,), mesh)]
    with count_collectives(mesh) as counts:
        sync_gradients(synchronous)
    sent = sum(tally.bytes for (label, _), tally in counts.items() if "dp" in label.split(","))
    assert sent == (weights if axes["dp"] > 1 else 0)


@meshes
@pytest.mark.parametrize(("inner", "dtype"), [(AdamW, "float64"), (SGD, "float64"), (AdamW, "bfloat16")])
@pytest.mark.parametrize("stop", [3, 4])
def test_from_a_checkpoint_it_goes_on_bit_for_bit(axes, inner, dtype, stop, make_mesh, tmp_path_factory):
    """In the middle of a round, and where replicas have just met."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner, dtype, inner_steps=2)
    for k in range(stop):
        run.step(f"{k}")
    path = mesh.world.broadcast_object(str(tmp_path_factory.mktemp("outer")) if mesh.rank == 0 else None)
    save(path, stop, run.outer.start, run.outer)
    other = Replica(mesh, inner, dtype, inner_steps=2)
    load(path, other.outer.start, other.outer)
    assert other.state() == run.state()
    for k in range(stop, 7):
        assert other.step(f"{k}") == run.step(f"{k}")
    assert other.state() == run.state()
    assert local_bytes(other.parameters) == local_bytes(run.parameters)


@meshes
def test_a_run_begins_with_the_outer_weights_of_another(axes, make_mesh, tmp_path_factory):
    """In other replicas, or none: they are stored as those of a model."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=2)
    for k in range(3):
        run.step(f"{k}")
    path = mesh.world.broadcast_object(str(tmp_path_factory.mktemp("outer")) if mesh.rank == 0 else None)
    save(path, 3, run.outer.start, run.outer)
    other = Replica(mesh, inner_steps=2)
    load(path, other.outer.start)
    with outer_weights(run.outer):
        assert local_bytes(other.parameters) == local_bytes(run.parameters)


@meshes
def test_numbers_of_replicas_are_their_mean(axes, make_mesh):
    mesh = make_mesh(**axes)
    place, count = mesh["dp"].rank, axes["dp"]
    assert over_replicas(mesh["dp"], place, 1.5) == [(count - 1) / 2, 1.5]
    assert over_replicas(None, place, 1.5) == [place, 1.5]


def test_a_model_on_the_mesh_of_all_is_refused(make_mesh):
    mesh = make_mesh(**TWO_AXES[-1])
    p = weight("w", (3,), mesh)
    inner = SGD([p], 0.1)
    if mesh.shape["dp"] > 1:
        with pytest.raises(UsageError, match=r"make the model on replica_mesh\(mesh, \"dp\"\)"):
            LocalSGD([p], inner, mesh)
    with pytest.raises(UsageError, match="inner_steps=0"):
        LocalSGD([p], inner, mesh, inner_steps=0)
