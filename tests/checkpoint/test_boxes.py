"""What the ranks write of a tensor fills it exactly once, under every layout; and what does not is named.

A failure prints the layout and the boxes.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipar.checkpoint.boxes import SPREAD, Box, held, misfit, whole, written
from mpipar.layout import Layout, Shard
from mpipar.layout.layout import Grid

pytestmark = pytest.mark.alone

Sizes = dict[str, int]


def coordinates(sizes: Sizes) -> list[tuple[int, ...]]:
    return list(product(*(range(size) for size in sizes.values())))


def layout_of(sizes: Sizes, shape: tuple[int, ...], placements: dict[str, Any]) -> Layout:
    return Layout.make(Grid(tuple(sizes), tuple(sizes.values())), shape, placements)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Sizes, Layout]:
    sizes = {axis: draw(st.integers(1, 3)) for axis in "abc"}
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    axes = draw(st.permutations("abc"))[: draw(st.integers(0, 3))]
    cuts = {axis: Shard(draw(st.integers(0, len(shape) - 1))) for axis in axes} if shape else {}
    return sizes, layout_of(sizes, shape, cuts)


@given(layouts(), st.sampled_from([1, SPREAD]), st.text(max_size=3))
def test_each_element_is_written_once(drawn: tuple[Sizes, Layout], itemsize: int, name: str) -> None:
    sizes, layout = drawn
    boxes = [written(layout, coords, name, itemsize) for coords in coordinates(sizes)]
    count = Counter(index for box in boxes if box for index in indices(box))
    assert count == dict.fromkeys(indices(whole(layout.shape)), 1)
    assert misfit([box for box in boxes if box], layout.shape) == ""


@given(layouts(), st.sampled_from([1, SPREAD]))
def test_a_rank_writes_only_what_it_holds(drawn: tuple[Sizes, Layout], itemsize: int) -> None:
    sizes, layout = drawn
    for coords in coordinates(sizes):
        box = written(layout, coords, "w", itemsize)
        assert box is None or box.overlap(held(layout, coords)) == box


def test_replicas_share_the_rows_of_what_is_large() -> None:
    layout = layout_of({"dp": 3}, (7, 5), {})
    large = [written(layout, (rank,), "w", SPREAD) for rank in range(3)]
    assert large == [Box((0, 0), (3, 5)), Box((3, 0), (5, 5)), Box((5, 0), (7, 5))]
    small = [written(layout, (rank,), "w", 8) for rank in range(3)]
    assert small.count(None) == 2


def test_small_tensors_are_dealt_out_by_name() -> None:
    layout = layout_of({"dp": 4}, (7,), {})
    names = [f"w{i}" for i in range(100)]
    writes = [sum(written(layout, (rank,), name, 8) is not None for name in names) for rank in range(4)]
    assert sum(writes) == 100
    assert min(writes) > 10


def indices(box: Box) -> list[tuple[int, ...]]:
    return list(product(*map(range, box.start, box.stop)))


GRID = [Box((0, 0), (2, 3)), Box((0, 3), (2, 4)), Box((2, 0), (5, 3)), Box((2, 3), (5, 4))]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (GRID, ""),
        (GRID[::-1], ""),
        (GRID[:3], "4 slices are wanted, there are 3"),
        ([*GRID, GRID[0]], "a slice is there twice"),
        ([GRID[0], GRID[1], GRID[2], GRID[2]], "a slice is there twice"),
        ([*GRID, Box((0, 0), (5, 4))], "slices overlap in dim 0 at 0"),
        (GRID[:2], "slices are missing in dim 0 at 2"),
        (GRID[2:], "slices are missing in dim 0 at 0"),
        (GRID[::2], "slices are missing in dim 1 at 3"),
        ([Box((0, 0), (3, 4)), Box((2, 0), (5, 4))], "slices overlap in dim 0 at 2"),
        ([], "slices are missing in dim 0 at 0"),
    ],
)
def test_a_grid_that_does_not_fill_its_tensor_is_told(boxes: list[Box], reason: str) -> None:
    assert misfit(boxes, (5, 4)) == reason


def test_tensors_without_elements_or_dims() -> None:
    assert misfit([], (0, 4)) == ""
    assert misfit([Box((0, 0), (0, 4))], (0, 4)) == "there are slices of a tensor without elements"
    assert misfit([Box((), ())], ()) == ""
    assert misfit([], ()) == "1 slices are wanted, there are 0"


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 4), min_size=1, max_size=3))
def test_an_overlap_holds_what_both_hold(numbers: list[tuple[int, ...]]) -> None:
    one, other = (
        Box(tuple(min(n[i], n[i + 1]) for n in numbers), tuple(max(n[i], n[i + 1]) for n in numbers))
        for i in (0, 2)
    )
    both = one.overlap(other)
    assert set(indices(one)) & set(indices(other)) == set(indices(both) if both else [])
    if both:
        assert prod(both.within(one).shape) == len(indices(both))
        assert both.within(one).shifted(one.start, (0,) * len(numbers)) == both
