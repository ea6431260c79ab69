"""The layout rules of operations, without arrays: what they give, and that one rule serves forward and backward.

A failure of the dual law means that the gradient of an operand would arrive in a layout that is not its dual.
"""

from __future__ import annotations

from itertools import product

import pytest

from mpipar import Partial, Replicate, Shard
from mpipar.layout import Cut, Grid, Layout, Misfit
from mpipar.layout.rules import aligned, broadcast, reshaped, summed, whole
from mpipar.testing.placements import placements_of

pytestmark = pytest.mark.alone

GRID = Grid(("dp", "tp"), (2, 3), ("dp", "tp"))


def layouts(shape: tuple[int, ...]) -> list[Layout]:
    pairs = product(placements_of(len(shape)), repeat=2)
    orders = [order for a, b in pairs for order in ({"dp": a, "tp": b}, {"tp": b, "dp": a})]
    return list(dict.fromkeys(Layout.make(GRID, shape, order) for order in orders))


X, W = layouts((5, 4)), layouts((4, 7))


def contracted(x: tuple[str, Layout], y: tuple[str, Layout], out: str) -> Layout | None:
    try:
        return aligned([x, y], out, "one")
    except Misfit:
        return None


def test_the_rule_on_the_dual_of_the_result_gives_the_duals_of_the_operands():
    """bc,cf→bf forward; bf,cf→bc and bc,bf→cf backward: one rule."""
    legal = 0
    for x, w in product(X, W):
        y = contracted(("bc", x), ("cf", w), "bf")
        if y is None:
            continue
        legal += 1
        assert contracted(("bf", y.dual), ("cf", w), "bc") == x.dual
        assert contracted(("bc", x), ("bf", y.dual), "cf") == w.dual
    assert legal == 39


def test_the_rows_of_a_product():
    rows = [
        ({}, {}, {}),
        ({"tp": Shard(0)}, {}, {"tp": Shard(0)}),
        ({}, {"tp": Shard(1)}, {"tp": Shard(1)}),
        ({"tp": Shard(1)}, {"tp": Shard(0)}, {"tp": Partial()}),
        ({"tp": Partial()}, {}, {"tp": Partial()}),
        ({}, {"tp": Partial()}, {"tp": Partial()}),
        ({"tp": Partial()}, {"tp": Partial()}, None),
        ({"tp": Shard(1)}, {}, None),
        ({"tp": Shard(0)}, {"tp": Shard(1)}, None),
        ({"tp": Shard(0)}, {"tp": Partial()}, None),
    ]
    for x, w, y in rows:
        found = contracted(("bc", Layout.make(GRID, (5, 4), x)), ("cf", Layout.make(GRID, (4, 7), w)), "bf")
        assert found == (None if y is None else Layout.make(GRID, (5, 7), y)), (x, w)


def test_a_sum_is_owed_over_the_axes_that_cut_what_is_summed():
    x = Layout.make(GRID, (5, 4), {"dp": Shard(0), "tp": Shard(1)})
    assert summed(x, (0,), False) == Layout.make(GRID, (4,), {"tp": Shard(0), "dp": Partial()})
    assert summed(x, (0, 1), False) == Layout.make(GRID, (), {"tp": Partial(), "dp": Partial()})
    assert summed(x, (1,), True) == Layout.make(GRID, (5, 1), {"dp": Shard(0), "tp": Partial()})


def test_a_broadcast_operand_is_whole_where_the_dim_that_it_lacks_is_cut():
    x, row = (
        Layout.make(GRID, (5, 4), {"dp": Shard(0), "tp": Shard(1)}),
        Layout.make(GRID, (4,), {"tp": Shard(0)}),
    )
    assert broadcast([x, row], "all") == x
    with pytest.raises(Misfit, match="lacks that dim and is sharded"):
        broadcast([x, Layout.make(GRID, (4,), {"dp": Shard(0)})], "all")
    with pytest.raises(Misfit, match="lacks that dim"):  # a dim of one row that is repeated
        broadcast([x, Layout.make(GRID, (1, 4), {"dp": Shard(0), "tp": Shard(1)})], "all")


def test_a_choice_is_linear_in_what_it_chooses_from():
    whole_, owed = Layout.make(GRID, (5, 4), {}), Layout.make(GRID, (5, 4), {"dp": Partial()})
    assert broadcast([whole_, owed, owed], "others") == owed
    for operands, message in (
        ([owed, owed, owed], r"\{0\} is Partial on axis 'dp', and the operation is not linear in it"),
        ([owed, whole_, whole_], r"\{0\} is Partial"),
        ([whole_, owed, whole_], r"\{1\} is Partial on axis 'dp', \{2\} is not"),
        ([whole_, whole_, owed], r"\{2\} is Partial on axis 'dp', \{1\} is not"),
    ):
        with pytest.raises(Misfit, match=message):
            broadcast(operands, "others")


def test_what_an_operation_mixes_must_be_whole():
    x = Layout.make(GRID, (5, 4), {"dp": Shard(0)})
    assert whole(x, [1]) == x
    with pytest.raises(Misfit, match=r"dim 0 of \{0\} must be whole and is sharded over axis 'dp'"):
        whole(x, [0])
    with pytest.raises(Misfit, match="not linear"):
        whole(Layout.make(GRID, (5, 4), {"dp": Partial()}), [])


# ---- reshape: a cut survives where every offset falls on a row of the result -----------------------------------


def reshape_of(shape, to, **placements):
    return reshaped(Layout.make(GRID, shape, placements), to)


def test_offsets_are_carried_over_not_made_anew():
    four = Grid(("tp",), (4,), ("tp",))
    found = reshaped(Layout.make(four, (5, 3, 8), {"tp": Shard(0)}), (15, 8))
    assert found.cuts[0] == Cut(("tp",), (0, 6, 9, 12, 15))
    assert found != Layout.make(four, (15, 8), {"tp": Shard(0)})  # whose pieces are 4, 4, 4, 3
    assert reshaped(found, (5, 3, 8)) == Layout.make(four, (5, 3, 8), {"tp": Shard(0)})


@pytest.mark.parametrize(
    ("shape", "to", "cut", "expected"),
    [
        ((5, 4), (5, 2, 2), 0, 0),
        ((5, 4), (5, 2, 2), 1, None),  # 2, 1, 1 columns: a cut would fall inside a row of two
        ((5, 6), (5, 3, 2), 1, 1),  # 2, 2, 2 columns
        ((5, 6), (30,), 0, 0),
        ((5, 6), (30,), 1, None),
        ((5, 6), (1, 5, 6), 0, 1),
        ((5, 6), (5, 1, 6), 1, 2),
        ((1, 6), (6,), 0, None),  # a dim of length 1 is not the leading one
        ((1, 6), (6,), 1, 0),
        ((6, 5), (3, 2, 5), 0, 0),
        ((4, 5), (2, 2, 5), 0, None),  # 2, 1, 1 rows
        ((0, 6), (0, 2, 3), 0, 0),
        ((5, 6), (5, 6), 1, 1),
    ],
)
def test_what_a_reshape_does_to_a_cut(shape, to, cut, expected):
    if expected is None:
        with pytest.raises(
            Misfit, match=rf"dim {cut} of \{{0\}} is sharded over axis 'tp', and a cut would fall inside"
        ):
            reshape_of(shape, to, tp=Shard(cut))
    else:
        assert reshape_of(shape, to, tp=Shard(cut)).placement("tp") == Shard(expected)


def test_reshape_keeps_what_is_owed_and_two_cuts_in_order():
    found = reshape_of((18, 4), (18, 2, 2), tp=Shard(0), dp=Shard(0))
    assert found.cuts[0] == Layout.make(GRID, (18, 4), {"tp": Shard(0), "dp": Shard(0)}).cuts[0]
    assert reshape_of((5, 4), (20,), dp=Partial()).placement("dp") == Partial()
    assert reshape_of((5, 4), (20,)).placement("dp") == Replicate()
