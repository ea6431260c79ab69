"""`redistribute`: several moves in one call, in the order in which they are written, and two cuts of one dim.

The order of two cuts says which rows a rank holds. A failure that shows rows in another order means that the outer cut
was moved before the inner one.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, two_axes

from mpipar import Partial, PlacementError, Replicate, Shard, randn, tensor
from mpipar.blocks import balanced
from mpipar.testing import check_parallel, count_collectives


def pieces(rows: range, size: int) -> list[range]:
    """Consecutive pieces by the block rule, said in another way."""
    lengths = balanced(len(rows), size)
    return [rows[sum(lengths[:r]) : sum(lengths[: r + 1])] for r in range(size)]


@two_axes
@pytest.mark.parametrize("order", [("dp", "tp"), ("tp", "dp")])
def test_an_inner_cut_cuts_the_piece_of_the_outer_one(order, axes, make_mesh):
    mesh = make_mesh(**axes)
    x = tensor(np.arange(9.0), mesh, **dict.fromkeys(order, Shard(0)))
    outer, inner = order
    mine = pieces(pieces(range(9), mesh.shape[outer])[mesh[outer].rank], mesh.shape[inner])[mesh[inner].rank]
    assert mesh.xp.to_host(x.local).tolist() == list(mine)
    np.testing.assert_array_equal(x.numpy(), np.arange(9.0))


@two_axes
@pytest.mark.parametrize("to", [Replicate(), Shard(1), Partial()])
def test_the_outer_of_two_cuts_does_not_move(to, axes, make_mesh):
    x = randn("x", (9, 5), make_mesh(**axes), tp=Shard(0), dp=Shard(0))
    with pytest.raises(
        PlacementError, match=r"'tp' is not the innermost cut of dim 0.*tp, dp.*move dp first"
    ):
        x.redistribute(tp=to)
    with pytest.raises(PlacementError, match=r'Write  x.allgather\("dp"\)  \(\d+ B from this rank\)  first'):
        x.redistribute(tp=to, dp=Replicate())
    x.redistribute(dp=Replicate(), tp=to)


@two_axes
@pytest.mark.parametrize("order", [("dp", "tp"), ("tp", "dp")])
def test_moves_are_made_as_written(order, axes, make_mesh):
    def f(x):
        return x.redistribute(dp=Replicate()).redistribute(**dict.fromkeys(order, Shard(1)))

    x = randn("x", (9, 5), make_mesh(**axes), dtype="float64", dp=Shard(0), tp=Partial())
    assert f(x).layout.cuts[1].axes == order
    check_parallel(f, x)


def test_a_move_to_where_it_is_is_the_identity(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    x = randn("x", (5, 3), mesh, tp=Shard(0))
    with count_collectives(mesh) as counts:
        assert x.redistribute(tp=Shard(0)) is x
        assert x.redistribute() is x
    assert counts == {}
