"""Moves between parts of a mesh: the dot test over ranks, Σ⟨A x, g⟩ = Σ⟨x, Aᵀ g⟩, in every layout.

A failure names the layout. Twice the value was counted on both parts, zero was lost on the way.
"""

from __future__ import annotations

import numpy as np
import pytest

from mpipar import PlacementError, Replicate, Shard, Tensor, receive, tensor
from mpipar.job import world
from mpipar.layout import Layout
from mpipar.mesh import Mesh
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import leaf, placed_as, represented

SIZE = world().size
GRIDS = [{"pp": pp, "tp": SIZE // pp} for pp in range(2, SIZE + 1) if SIZE % pp == 0]
with_pp = pytest.mark.parametrize("axes", GRIDS, ids=lambda axes: f"pp{axes['pp']}-tp{axes['tp']}")
SHAPE = (5, 3)


def stage(mesh: Mesh) -> int:
    return mesh.coords[mesh.grid.axes.index("pp")]


@with_pp
def test_what_is_sent_arrives_and_its_gradient_comes_back(axes, make_mesh, count_cases):
    """From the last stage to the first, every layout."""
    mesh = make_mesh(**axes)
    source, target = mesh.at(pp=-1), mesh.at(pp=0)
    for layout in layouts_of(source if source.here else target, SHAPE, ["tp"]):
        left = right = 0.0
        if source.here:
            x = leaf(represented(source, layout, "x"), source, layout, "x")
            sent = x.send_to(target)
            assert (sent.shape, sent.item()) == ((), 0.0)
            sent.backward()
            right = float(mesh.xp.to_host(x.local * x.grad.local).sum())
            assert x.grad.layout == layout.dual
        if target.here:
            y = receive(SHAPE, target, source, dtype="float64", **placed_as(layout))
            assert (y.layout, y.mesh) == (layout, target)
            g = represented(target, layout.dual, "g")
            y.backward(Tensor(g, target, layout.dual))
            left = float(mesh.xp.to_host(y.local * g).sum())
        both = mesh.world.allgather_object((left, right))
        there, back = (sum(each) for each in zip(*both, strict=True))
        assert there == pytest.approx(back, rel=1e-13), str(layout)
        assert there != 0
        count_cases["moves between stages"] += 1


@with_pp
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_message_is_my_piece_and_nothing_else(axes, dtype, make_mesh):
    """The gradient of a 16-bit tensor is float32, and comes back so."""
    mesh = make_mesh(**axes)
    source, target = mesh.at(pp=0), mesh.at(pp=1)
    with mesh.ledger.record() as calls:
        if source.here:
            x = tensor(np.ones(SHAPE), source, dtype=dtype, requires_grad=True, tp=Shard(0))
            x.send_to(target).backward()
            assert str(x.grad.dtype) == "float32"
        if target.here:
            y = receive(SHAPE, target, source, dtype=dtype, tp=Shard(0))
            y.astype("float32").sum().backward()
    if source.here or target.here:
        here = (source if source.here else target).coords
        rows = len(Layout.make(source.grid, SHAPE, {"tp": Shard(0)}).piece(0, here))
        item = 2 if dtype == "bfloat16" and source.here else 4
        sent = [(call.label, call.operation, call.bytes) for call in calls if call.operation == "send"]
        assert sent == [("pp", "send", rows * SHAPE[1] * item)]
        assert sum(call.operation == "recv" for call in calls) == 1
    else:
        assert not calls


@with_pp
def test_without_a_gradient_nothing_comes_back(axes, make_mesh):
    mesh = make_mesh(**axes)
    if mesh.at(pp=0).here:
        assert not tensor(np.ones(SHAPE), mesh.at(pp=0)).send_to(mesh.at(pp=1)).requires_grad
    if mesh.at(pp=1).here:
        y = receive(SHAPE, mesh.at(pp=1), mesh.at(pp=0), dtype="float64", requires_grad=False)
        assert not y.requires_grad
        np.testing.assert_array_equal(y.numpy(), np.ones(SHAPE))


@with_pp
def test_a_weight_of_two_stages_gets_a_term_from_each(axes, make_mesh):
    """w on the first and the last: y = w·1 on one, y = w·10 on the other; the gradient is their sum, 11."""
    mesh = make_mesh(**axes)
    both, me = mesh.at(pp=(0, -1)), stage(mesh)
    if not both.here:
        return
    w = tensor(np.ones(SHAPE), both, requires_grad=True, name="w", tp=Shard(0))
    here = mesh.at(pp=me)
    with mesh.ledger.record() as calls:
        mine = w.at(here)
        (mine * (1.0 if me == 0 else 10.0)).sum().backward()
    assert not calls  # local, both ways
    assert mine.mesh is here
    assert mine.local is w.local
    assert mine.layout.placement("tp") == Shard(0)
    np.testing.assert_array_equal(w.grad.numpy(), np.full(SHAPE, 11.0))


@pytest.mark.skipif(SIZE < 2, reason="a part needs two ranks")
def test_what_is_no_part_is_refused(make_mesh):
    mesh = make_mesh(pp=SIZE)
    me = stage(mesh)
    x = tensor(np.ones(SHAPE), mesh, name="x")
    assert x.at(mesh) is x
    with pytest.raises(PlacementError, match=r"at: Mesh\(.*\) is no part of Mesh\(.*\), where 'y' is"):
        tensor(np.ones(SHAPE), mesh.at(pp=me), name="y").at(mesh)
    with pytest.raises(
        PlacementError, match=r"at: 'x' .* is Shard\(0\) on axis 'pp'.*x.redistribute\(pp=Repl"
    ):
        x.redistribute(pp=Shard(0)).at(mesh.at(pp=me))
    assert x.redistribute(pp=Shard(0)).redistribute(pp=Replicate()).at(mesh.at(pp=me)).mesh.size == 1
    for other in (mesh, mesh.at(pp=me), Mesh(ranks=[world().rank], pp=1, device=mesh.xp)):
        with pytest.raises(
            PlacementError, match="two parts of one mesh are wanted that differ in one coordinate"
        ):
            tensor(np.ones(SHAPE), mesh.at(pp=me)).send_to(other)
    with pytest.raises(PlacementError, match=r"receive: \(5, 3\) with {'tp': Shard\(7\)}"):
        receive(SHAPE, mesh.at(pp=me), mesh.at(pp=me - 1), tp=Shard(7))


@pytest.mark.skipif(SIZE < 2, reason="a part needs two ranks")
def test_tensors_of_a_part_and_of_the_whole_do_not_mix(make_mesh):
    mesh = make_mesh(pp=SIZE)
    with pytest.raises(PlacementError, match="are on different meshes and do not mix"):
        tensor(np.ones(3), mesh.at(pp=stage(mesh))) + tensor(np.ones(3), mesh)
