"""The moves: every one, on every axis, from every layout, with pieces that are uneven and empty.

A failure of the dot test means that a vjp is not the transpose of its move; a changed value, that the move puts rows in
the wrong place or sums what was summed.
"""

from __future__ import annotations

from itertools import product

import pytest
from grids import ONE_AXIS, all_grids, cpu_alone, devices_and_grids, two_axes

from mpipar import Partial, PlacementError, Replicate, Shard, randn
from mpipar.job import world
from mpipar.layout import move_bytes
from mpipar.tensor.moves import TABLE
from mpipar.testing import check_every_placement, check_grads, check_moves, count_collectives
from mpipar.testing.moves import layouts_of
from mpipar.testing.placements import placements_of
from mpipar.testing.values import leaf, represented

SHAPES = [(5, 3), (2, 7), (1, 4), (0, 3), (5,), (2, 3, 3)]
FLOOR = {1: 74, 2: 620}  # moves over all shapes, by the number of axes


@devices_and_grids
def test_every_move_is_right(axes, make_mesh, count_cases):
    mesh = make_mesh(**axes)
    made = sum(check_moves(mesh, shape) for shape in SHAPES)
    assert made >= FLOOR[len(axes)]
    count_cases["moves"] += made


@cpu_alone
def test_every_move_among_three_cuts_is_right(make_mesh, count_cases):
    size = world().size
    axes = {"dp": 2, "cp": 1, "tp": 2} if size == 4 else {"dp": 1, "cp": size, "tp": 1}
    count_cases["moves"] += check_moves(make_mesh(**axes), (5,))


def test_every_move_of_a_vocabulary_is_right(make_mesh, count_cases):
    count_cases["moves"] += check_moves(make_mesh(**ONE_AXIS), (50257,))


@pytest.mark.parametrize(
    "ranks",
    [range(world().size)[::-1], range(world().rank % 2, world().size, 2)],
    ids=["reversed", "every second"],
)
def test_every_move_on_a_mesh_of_some_ranks_is_right(ranks, make_mesh):
    """All ranks in another order; and every second one, which call by themselves."""
    check_moves(make_mesh(ranks=tuple(ranks), tp=len(ranks)), (5, 3))


def test_the_table_has_every_move_but_identities():
    kinds = (Replicate, Partial, Shard)
    assert set(TABLE) == {(a, b) for a, b in product(kinds, kinds) if a is not b or a is Shard}


@all_grids
@cpu_alone
def test_a_move_costs_what_was_told_before(axes, make_mesh):
    mesh = make_mesh(**axes)
    for layout in layouts_of(mesh, (5, 3), mesh.grid.named):
        x = leaf(represented(mesh, layout, "x"), mesh, layout)
        for axis, to in product(mesh.grid.named, placements_of(2)):
            with count_collectives(mesh) as counts:
                try:
                    x.redistribute(**{axis: to})
                except PlacementError:
                    continue
            told = move_bytes(layout, axis, to, mesh.coords, 8)
            assert sum(tally.bytes for tally in counts.values()) == told, f"{layout} {axis}={to}: {counts}"
            assert len(counts) <= 1


# ---- the explicit collectives --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collective", "source", "target"),
    [
        (lambda x: x.allreduce("tp"), Partial(), Replicate()),
        (lambda x: x.allgather("tp"), Shard(0), Replicate()),
        (lambda x: x.allgather("tp"), Shard(1), Replicate()),
        (lambda x: x.reduce_scatter("tp", dim=0), Partial(), Shard(0)),
        (lambda x: x.reduce_scatter("tp", dim=-1), Partial(), Shard(1)),
        (lambda x: x.alltoall("tp", dim=1), Shard(0), Shard(1)),
        (lambda x: x.alltoall("tp", dim=-2), Shard(1), Shard(0)),
    ],
)
def test_a_collective_is_that_move_and_takes_nothing_else(collective, source, target, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    for placement in placements_of(2):
        x = randn("x", (5, 3), mesh, dtype="float64", tp=placement)
        if type(placement) is type(source):
            assert collective(x).placements["tp"] == target
        else:
            with pytest.raises(PlacementError, match=rf"{type(source).__name__} is wanted. Write  x.redist"):
                collective(x)
    x = randn("x", (5, 3), mesh, dtype="float64")
    check_every_placement(collective, x)


# ---- several axes at once --------------------------------------------------------------------------------------


@two_axes
@pytest.mark.parametrize(
    ("f", "start", "kind"),
    [
        (lambda x: x.allreduce("dp", "tp"), {"dp": Partial(), "tp": Partial()}, "allreduce"),
        (lambda x: x.allgather("dp", "tp"), {"dp": Shard(0), "tp": Shard(0)}, "allgather"),
        (lambda x: x.allgather("dp", "tp"), {"tp": Shard(0), "dp": Shard(0)}, "allgather"),
        (lambda x: x.reduce_scatter("dp", "tp", dim=0), {"dp": Partial(), "tp": Partial()}, "reduce_scatter"),
        (lambda x: x.reduce_scatter("tp", "dp", dim=0), {"dp": Partial(), "tp": Partial()}, "reduce_scatter"),
        (lambda x: x.alltoall("dp", "tp", dim=1), {"dp": Shard(0), "tp": Shard(0)}, "alltoall"),
        (lambda x: x.alltoall("dp", "tp", dim=1), {"tp": Shard(0), "dp": Shard(0)}, "alltoall"),
    ],
)
def test_several_axes_move_in_one_collective(f, start, kind, axes, make_mesh):
    mesh = make_mesh(**axes)
    x = randn("x", (9, 5), mesh, dtype="float64", requires_grad=True, **start)
    check_grads(f, x, elements=0)
    assert check_every_placement(f, x) >= 1
    with count_collectives(mesh) as forward:
        y = f(x)
    with count_collectives(mesh) as backward:
        y.sum().backward()
    assert [operation for _, operation in forward] == ([kind] if mesh.size > 1 else [])
    assert sum(tally.calls for tally in backward.values()) == len(forward)


@two_axes
def test_several_axes_cut_in_the_order_in_which_they_are_named(axes, make_mesh):
    mesh = make_mesh(**axes)
    x = randn("x", (9, 5), mesh, dtype="float64", dp=Partial(), tp=Partial())
    for named in (("dp", "tp"), ("tp", "dp")):
        y = x.reduce_scatter(*named, dim=0)
        assert y.layout.cuts[0].axes == named
        assert y.layout == x.redistribute(**dict.fromkeys(named, Shard(0))).layout


@two_axes
def test_axes_with_different_placements_do_not_move_together(axes, make_mesh):
    x = randn("x", (9, 5), make_mesh(**axes), dtype="float64", dp=Shard(0), tp=Shard(1))
    with pytest.raises(PlacementError, match="different placements"):
        x.allgather("dp", "tp")
