"""Layouts: which rows each rank holds, whatever cuts them. Pure arithmetic: no array, no mesh of real ranks.

A failure means that a row is held twice or by nobody, or that a cut was not undone.
"""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipar import Partial, Replicate, Shard
from mpipar.blocks import balanced, offsets, spread
from mpipar.layout import Cut, Grid, Layout, Misfit, dual

pytestmark = pytest.mark.alone

GRID = Grid(("dp", "tp", "cp"), (2, 3, 1), ("dp", "tp"))
COORDS = list(product(range(2), range(3), range(1)))


@given(st.integers(0, 60_000), st.integers(1, 9))
def test_balanced_pieces_are_whole_and_differ_by_one(n, size):
    pieces = balanced(n, size)
    assert len(pieces) == size
    assert sum(pieces) == n
    assert list(pieces) == sorted(pieces, reverse=True)
    assert max(pieces) - min(pieces) <= 1
    assert offsets(pieces)[:-1] == spread(0, n, size)


def test_the_vocabulary_of_gpt_2_over_four():
    assert balanced(50257, 4) == (12565, 12564, 12564, 12564)


@given(st.integers(0, 40), st.permutations(["dp", "tp", "cp"]), st.integers(0, 3))
def test_every_row_is_held_once_by_the_ranks_of_the_cuts(rows, order, count):
    layout = Layout.make(GRID, (rows,), dict.fromkeys(order[:count], Shard(0)))
    places = [GRID.axes.index(axis) for axis in order[:count]]
    held = {tuple(coords[p] for p in places): layout.piece(0, coords) for coords in COORDS}
    assert sorted(row for piece in held.values() for row in piece) == list(range(rows))
    in_order = [list(held[c]) for c in sorted(held)]  # outermost axis first: consecutive pieces
    assert [row for piece in in_order for row in piece] == list(range(rows))


@given(st.integers(0, 40), st.integers(0, 3), st.integers(1, 5), st.integers(1, 5))
def test_a_cut_is_undone_by_merging(length, cuts, first, second):
    cut = Cut((), (0, length))
    for k in range(cuts):
        cut = cut.split(f"axis {k}", first)
    assert cut.split("inner", second).merge(second) == cut
    assert cut.length == length


def test_keyword_order_is_cut_order():
    outer, inner = (
        Layout.make(GRID, (9, 4), dict.fromkeys(order, Shard(0))) for order in (("dp", "tp"), ("tp", "dp"))
    )
    assert [len(outer.piece(0, c)) for c in COORDS] == [2, 2, 1, 2, 1, 1]
    assert [len(inner.piece(0, c)) for c in COORDS] == [2, 2, 2, 1, 1, 1]
    assert outer != inner
    assert str(outer) == "(9, 4; dp=Shard(0) tp=Shard(0))"
    assert str(inner) == "(9, 4; tp=Shard(0) dp=Shard(0))"
    assert Layout.make(GRID, (9, 4), {"dp": Shard(0), "tp": Shard(1)}) == Layout.make(
        GRID, (9, 4), {"tp": Shard(1), "dp": Shard(0)}
    )


def test_sizes_are_those_of_the_innermost_axes_within_my_outer_piece():
    layout = Layout.make(GRID, (9, 4), {"dp": Shard(0), "tp": Shard(0)})
    assert [layout.sizes(("tp",), 0, (dp, 0, 0)) for dp in range(2)] == [(2, 2, 1), (2, 1, 1)]
    assert layout.sizes(("dp", "tp"), 0, (1, 2, 0)) == (2, 2, 1, 2, 1, 1)


@pytest.mark.parametrize("placement", [Replicate(), Partial(), Shard(0), Shard(1)])
def test_the_dual_of_the_dual_is_the_placement(placement):
    assert dual(dual(placement)) == placement
    layout = Layout.make(GRID, (9, 4), {"tp": placement, "dp": Partial()})
    assert layout.dual.placement("tp") == dual(placement)
    assert layout.dual.placement("dp") == Replicate()
    assert layout.dual.dual == layout


def test_nothing_is_owed_on_an_axis_of_one_rank_that_nobody_named():
    layout = Layout.make(GRID, (9, 4), {})
    assert layout.dual.partial == {"dp", "tp"}
    assert Layout.make(Grid(("dp", "tp"), (1, 1), ("dp",)), (9,), {}).dual.partial == {"dp"}


def test_only_the_innermost_cut_moves():
    for order in permutations(("dp", "tp", "cp")):
        layout = Layout.make(GRID, (9, 4), dict.fromkeys(order, Shard(0)))
        for axis in order[:-1]:
            with pytest.raises(Misfit, match=f"'{axis}' is not the innermost cut of dim 0"):
                layout.placed(axis, Replicate())
        assert layout.placed(order[-1], Replicate()) == Layout.make(
            GRID, (9, 4), dict.fromkeys(order[:-1], Shard(0))
        )


def test_layouts_are_values():
    made = [Layout.make(GRID, (9, 4), {"tp": Shard(1), "dp": Partial()}) for _ in range(2)]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert made[0].placements == {"dp": Partial(), "tp": Shard(1), "cp": Replicate()}
    assert str(made[0]) == "(9, 4; tp=Shard(1) dp=Partial())"


def test_first_on_every_axis_where_it_is_replicate():
    layout = Layout.make(GRID, (), {"dp": Partial()})
    assert [layout.is_first(c) for c in COORDS] == [c[1] == 0 for c in COORDS]
