"""Checks of what must hold on all ranks: a failing one names step, ranks and weight, on all ranks alike."""

from __future__ import annotations

import pytest
from grids import TWO_AXES, grid_name
from weights import weight

from mpipar import Shard
from mpipar.errors import SanityError
from mpipar.job import world
from mpipar.parallel import check_loss, check_weights

meshes = pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)


def weights(mesh):
    return [weight("whole", (5, 3), mesh), weight("cut", (5, 3), mesh, tp=Shard(0)), weight("zero", (), mesh)]


@meshes
def test_what_holds_passes(axes, make_mesh):
    mesh = make_mesh(**axes)
    check_weights(1, weights(mesh), mesh)
    check_loss(1, 0.1 + 0.2, mesh)


@meshes
@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_with_other_bits_is_named(axes, which, make_mesh):
    """The last rank's piece is changed by one bit; where no other rank has that piece nobody can know."""
    mesh = make_mesh(**axes)
    parameters = weights(mesh)
    p, last = parameters[which], mesh.size - 1
    if mesh.rank == last and p.local.size:
        p.local.reshape(-1)[-1:] *= 1 + 2**-52
    copies = mesh.size if which == 0 else axes["dp"]
    if copies == 1:
        check_weights(7, parameters, mesh)
        return
    with pytest.raises(SanityError) as raised:
        check_weights(7, parameters, mesh)
    text = str(raised.value)
    assert text.startswith(f"step 7: the copies of {p.name!r} are not the same: ")
    assert (f"rank {last} differs from rank" if copies > 2 else f"against rank {last}.") in text
    assert len(set(world().allgather_object(text))) == 1


@meshes
def test_a_rank_with_another_loss_is_named(axes, make_mesh):
    mesh = make_mesh(**axes)
    last = mesh.size - 1
    loss = 5.5 if mesh.rank < last else 5.5 * (1 + 2**-52)
    if mesh.size == 1:
        check_loss(3, loss, mesh)
        return
    with pytest.raises(SanityError, match=rf"step 3: the loss is not the same: .*rank {last}"):
        check_loss(3, loss, mesh)
