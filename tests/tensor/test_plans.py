"""What `apply` keeps of an operation: a plan that is kept must be the one that would be made anew."""

from __future__ import annotations

import pytest

import mpipar as mp
from mpipar import PlacementError, Shard
from mpipar.job import world
from mpipar.tensor import apply


@pytest.fixture
def mesh():
    return mp.Mesh(ranks=[world().rank], tp=1)


def test_equal_operands_share_a_plan_and_other_operands_do_not(mesh):
    x, wide = mp.ones((4, 2), mesh), mp.ones((4, 2), mesh, dtype="float64")
    x.sum(0)
    before = len(mesh.plans)
    mp.ones((4, 2), mesh).sum(0)
    assert len(mesh.plans) == before
    for others in (lambda: x.sum(1), lambda: wide.sum(0), lambda: x[:2].sum(0)):
        kept = len(mesh.plans)
        others()
        assert len(mesh.plans) > kept


def test_results_of_a_plan_follow_the_numbers_that_the_layout_does_not_see(mesh):
    x = mp.ones((2,), mesh)
    assert [(x * k).numpy().tolist() for k in (2, 3)] == [[2, 2], [3, 3]]


def test_a_plan_never_lets_a_misfit_pass(mesh):
    x, cut = mp.ones((4,), mesh), mp.ones((4,), mesh, tp=Shard(0))
    x + x
    for _ in range(2):
        with pytest.raises(PlacementError):
            x + cut


def test_shapes_that_never_come_back_do_not_fill_the_memory(mesh, monkeypatch):
    monkeypatch.setattr(apply, "PLANS", 5)
    for length in range(1, 20):
        assert mp.ones((length,), mesh).sum().item() == length
        assert len(mesh.plans) <= 5
