"""Every operation: its gradients are the numerical ones, and on every placement that its rule takes it equals one rank.

A failure names the input, its placements and the element or the gradient that is apart. If only the dot test fails,
the vjp adds something over ranks that the duals of the placements have summed already.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from itertools import product
from math import prod

import pytest
from grids import MIXED, ONE_AXIS, devices_and_grids, grid_name, one_device
from op_cases import CASES

from mpipar import PlacementError, Tensor, no_grad
from mpipar.backend import Array
from mpipar.job import world
from mpipar.layout import Layout
from mpipar.testing import check_every_placement, check_grads, legal_placements
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import wholes_of

cases = pytest.mark.parametrize("name", CASES)


@cases
@one_device
def test_gradients_are_numerical(name, make_mesh):
    case = CASES[name]
    check_grads(case.f, *case.make(make_mesh(ranks=(world().rank,))), rtol=1e-8)


@cases
@one_device
def test_dot_test_over_ranks_on_every_placement(name, make_mesh, count_cases):
    case, mesh = CASES[name], make_mesh(**ONE_AXIS)
    inputs = case.make(mesh)
    wholes = wholes_of(inputs)
    for combination in legal_placements(case.f, *inputs):
        parts = [whole.on(mesh, p) for whole, p in zip(wholes, combination, strict=True)]
        check_grads(case.f, *parts, directions=1, elements=0, rtol=1e-8)
        count_cases["dot tests of operations"] += 1


@cases
@devices_and_grids
def test_every_placement_equals_one_rank(name, axes, make_mesh, device, count_cases):
    case = CASES[name]
    count = check_every_placement(case.f, *case.make(make_mesh(**axes)))
    count_cases["placements of operations"] += count
    TRIED[device, grid_name(axes)][name] = count


TRIED: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)  # by device and mesh: how many, by case


@devices_and_grids
def test_the_number_of_placements_has_a_floor(axes, device):
    tried = TRIED[device, grid_name(axes)]
    if tried.keys() != CASES.keys():
        pytest.skip("not all cases were run")
    assert sum(tried.values()) >= FLOOR[len(axes)]


FLOOR = {1: 290, 2: 1440}  # by the number of axes


@cases
@one_device
def test_float32_equals_one_rank_to_its_precision(name, make_mesh):
    case = CASES[name]
    check_every_placement(case.f, *case.make(make_mesh(**ONE_AXIS), "float32"), rtol=1e-5)


def number_of_layouts(ndim: int) -> int:
    """On two axes: every pair of placements, and two cuts of one dim in both orders."""
    return (2 + ndim) ** 2 + ndim


FEW = [name for name, case in CASES.items() if prod(number_of_layouts(x.ndim) for x in case.inputs) <= 1000]


@pytest.mark.parametrize("name", FEW)
@one_device
def test_an_operation_takes_on_two_axes_what_it_takes_on_each(name, make_mesh):
    """What `legal_placements` relies on where it leaves combinations untried."""
    case, mesh = CASES[name], make_mesh(**MIXED)
    inputs = case.make(mesh)
    options = [list(layouts_of(mesh, x.shape, mesh.grid.named)) for x in inputs]
    taken = set()
    for layouts in product(*options):
        pieces = [Tensor(piece(x, layout), mesh, layout) for x, layout in zip(inputs, layouts, strict=True)]
        with suppress(PlacementError), no_grad():
            case.f(*pieces)
            taken.add(layouts)
    found = [
        tuple(Layout.make(mesh.grid, x.shape, p) for x, p in zip(inputs, combination, strict=True))
        for combination in legal_placements(case.f, *inputs)
    ]
    assert len(found) == len(set(found))
    assert set(found) == taken


def piece(x: Tensor, layout: Layout) -> Array:
    """My piece of a whole tensor in another layout."""
    pieces = (layout.piece(dim, x.mesh.coords) for dim in range(x.ndim))
    return x.local[tuple(slice(p.start, p.stop) for p in pieces)]
