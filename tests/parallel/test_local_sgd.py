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
from mpipar.optim import AdamW
from mpipar.parallel import LocalSGD, replica_mesh, sync_gradients
from mpipar.testing import Tally, count_collectives
from mpipar.testing.values import represented

meshes = pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)


class Replica:
    """Two weights, one of them cut over tp, that follow gradients of this replica alone."""

    def __init__(self, mesh, **outer):
        self.mesh, self.inner = mesh, replica_mesh(mesh)
        self.parameters = [weight("a", (5, 3), self.inner, tp=Shard(1)), weight("b", (4,), self.inner)]
        self.optimizer = AdamW(self.parameters, 0.1)
        self.outer = LocalSGD(self.parameters, mesh, **outer)

    def step(self, name):
        for p in self.parameters:
            dual = p.layout.dual
            g = represented(p.mesh, dual, f"{p.name} {name} {self.mesh['dp'].rank}", p.dtype)
            p.backward(Tensor(g, p.mesh, dual))
        sync_gradients(self.parameters)
        self.optimizer.step()
        return self.outer.step()


@meshes
def test_a_meeting_after_each_step_is_the_plain_mean(axes, make_mesh):
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=1, lr=1.0, momentum=0.0)
    alone = Replica(mesh, inner_steps=10**9)
    for name in ("first", "second"):
        for mine, theirs in zip(alone.parameters, run.parameters, strict=True):
            mesh.xp.copy_into(mine.local, theirs.local)
        assert not alone.step(name)
        assert run.step(name)
        for p, single in zip(run.parameters, alone.parameters, strict=True):
            mean = sum(mesh["dp"].allgather_object(mesh.xp.to_host(single.local))) / axes["dp"]
            np.testing.assert_allclose(mesh.xp.to_host(p.local), mean, rtol=1e-14, atol=1e-14)


@meshes
def test_a_meeting_is_nesterovs_step_along_the_mean_difference(axes, make_mesh):
    """Douillard et al. 2023, algorithm 1: v ← μv + Δ, θ ← θ - η(Δ + μv)."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=3, lr=0.7, momentum=0.9)
    theta = [mesh.xp.to_host(p.local) for p in run.parameters]
    velocity = [np.zeros_like(x) for x in theta]
    for meeting in range(2):
        for k in range(2):
            assert not run.step(f"{meeting} {k}")
        before = run.optimizer.step
        held = []
        run.optimizer.step = lambda before=before, held=held: (
            before(),
            held.extend(mesh.xp.to_host(p.local) for p in run.parameters),
        )
        assert run.step(f"{meeting} 2")
        run.optimizer.step = before
        for k, p in enumerate(run.parameters):
            delta = theta[k] - sum(mesh["dp"].allgather_object(held[k])) / axes["dp"]
            velocity[k] = 0.9 * velocity[k] + delta
            theta[k] = theta[k] - 0.7 * (delta + 0.9 * velocity[k])
            np.testing.assert_allclose(mesh.xp.to_host(p.local), theta[k], rtol=1e-12, atol=1e-12)
        assert len(set(mesh["dp"].allgather_object(tuple(local_bytes(run.parameters))))) == 1


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
    assert counts == ({("dp", "allreduce"): Tally(meetings, meetings * weights)} if axes["dp"] > 1 else {})
    synchronous = [weight("a", (5, 3), mesh, tp=Shard(1)), weight("b", (4,), mesh)]
    with count_collectives(mesh) as counts:
        sync_gradients(synchronous)
    over_dp = sum(tally.bytes for (label, _), tally in counts.items() if "dp" in label.split(","))
    assert over_dp == (weights if axes["dp"] > 1 else 0)


@meshes
def test_the_outer_state_goes_through_a_checkpoint(axes, make_mesh, tmp_path_factory):
    """In the middle of a round: what is restored goes on to the same meeting."""
    mesh = make_mesh(**axes)
    run = Replica(mesh, inner_steps=2)
    for name in ("a", "b", "c"):
        run.step(name)
    path = mesh.world.broadcast_object(str(tmp_path_factory.mktemp("outer")) if mesh.rank == 0 else None)
    save(path, 3, Stack(run), run.outer)
    other = Replica(mesh, inner_steps=2)
    load(path, Stack(other), other.outer)
    assert other.outer.done == 1
    for name, x in run.outer.state_dict().items():
        if isinstance(x, Tensor):
            assert local_bytes([other.outer.state_dict()[name]]) == local_bytes([x])
    assert local_bytes(other.parameters) == local_bytes(run.parameters)


class Stack:
    """The weights of all replicas, each a row."""

    def __init__(self, run):
        self.run = run

    def state_dict(self):
        return {p.name: self.run.outer.stacked(p.detach()) for p in self.run.parameters}

    def load_state_dict(self, state):
        pass  # they are the arrays themselves


def test_a_model_on_the_mesh_of_all_is_refused(make_mesh):
    mesh = make_mesh(**TWO_AXES[-1])
    p = weight("w", (3,), mesh)
    if mesh.shape["dp"] > 1:
        with pytest.raises(UsageError, match=r"make the model on replica_mesh\(mesh, \"dp\"\)"):
            LocalSGD([p], mesh)
    with pytest.raises(UsageError, match="inner_steps=0"):
        LocalSGD([p], mesh, inner_steps=0)
