"""The norm of all gradients together, under every layout of several parameters, is the norm of their whole values.

To 1e-12. A failure names the placements: a norm that is too large by a root of the ranks counts a piece on each of
them, one that is too small lacks pieces.
"""

from __future__ import annotations

from itertools import cycle
from math import isnan, nan

import numpy as np
import pytest
from grids import ONE_AXIS, TWO_AXES, grid_name
from weights import every_layout, local_bytes, send_gradient, weight, whole_gradient

from mpipar import GraphError, Replicate
from mpipar.job import world
from mpipar.optim import clip_grad_norm
from mpipar.parallel import sync_gradients
from mpipar.testing import Tally, count_collectives

SHAPES = ((5, 3), (2,), ())


def with_gradients(mesh, placements=({}, {}, {}), dtype="float64"):
    """A parameter of each shape, and its gradient."""
    parameters = [
        weight(f"w{k}", shape, mesh, dtype, **placed)
        for k, (shape, placed) in enumerate(zip(SHAPES, placements, strict=True))
    ]
    for p in parameters:
        send_gradient(p, p.name)
    sync_gradients(parameters)
    return parameters, [whole_gradient(p, p.name) for p in parameters]


def norm_of(arrays):
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays)))


@pytest.mark.parametrize("axes", TWO_AXES, ids=grid_name)
def test_every_layout_has_the_serial_norm(axes, make_mesh, count_cases):
    mesh = make_mesh(**axes)
    matrix, *others = (every_layout(mesh, shape) for shape in SHAPES)
    for placements in zip(matrix, *map(cycle, others), strict=False):
        parameters, wholes = with_gradients(mesh, placements)
        expected = norm_of(wholes)
        norm = clip_grad_norm(parameters, expected / 3)
        assert norm.item() == pytest.approx(expected, rel=1e-12), placements
        assert set(norm.placements.values()) == {Replicate()}
        assert all(p.grad.layout == p.layout for p in parameters)
        clipped = [p.grad.numpy() for p in parameters]
        for x, whole in zip(clipped, wholes, strict=True):
            np.testing.assert_allclose(x, whole / 3, rtol=1e-5, err_msg=str(placements))
        assert norm_of(clipped) <= expected / 3
        count_cases["layouts of clipping"] += 1


def test_the_scale_is_that_of_the_formula(make_mesh):
    """max/(norm + 1e-6), as the field has it, so that the result is never above the maximum."""
    parameters, wholes = with_gradients(make_mesh(**ONE_AXIS))
    clip_grad_norm(parameters, 0.5)
    for p, whole in zip(parameters, wholes, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), whole * (0.5 / (norm_of(wholes) + 1e-6)), rtol=1e-12)


@pytest.mark.parametrize("max_norm", [0, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_maximum_and_one_that_is_not_reached_leave_every_bit(max_norm, dtype, make_mesh):
    parameters, wholes = with_gradients(make_mesh(**ONE_AXIS), dtype=dtype)
    before = local_bytes([p.grad for p in parameters])
    assert clip_grad_norm(parameters, max_norm).item() == pytest.approx(norm_of(wholes))
    assert local_bytes([p.grad for p in parameters]) == before


def test_the_norm_has_the_same_bits_on_all_ranks_and_moves_one_number(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    parameters, _ = with_gradients(mesh)
    with count_collectives(mesh) as counts:
        norm = clip_grad_norm(parameters, 1.0)
    assert counts == ({("mesh", "allreduce"): Tally(1, 8)} if mesh.size > 1 else {})
    assert len(set(world().allgather_object(norm.item().hex()))) == 1
    assert norm.dtype == "float64"


def test_a_large_float32_gradient_has_a_norm(make_mesh):
    """Squares are added in float64: 1e30² is beyond float32."""
    mesh = make_mesh(**ONE_AXIS)
    p = weight("w", (4,), mesh, "float32")
    send_gradient(p, "g")
    sync_gradients([p])
    mesh.xp.fill(p.grad.local, 1e30)
    assert clip_grad_norm([p], 1.0).item() == pytest.approx(2e30)
    np.testing.assert_allclose(p.grad.numpy(), 0.5, rtol=1e-6)


def test_a_number_that_is_none_shows_in_the_norm_on_all_ranks(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    parameters, _ = with_gradients(mesh, ({"tp": every_layout(mesh, (5, 3))[1]["tp"]}, {}, {}))
    if mesh.rank == mesh.size - 1:
        mesh.xp.fill(parameters[0].grad.local, nan)
    assert isnan(clip_grad_norm(parameters, 1.0).item())


def test_a_gradient_that_is_owed_raises(make_mesh):
    p = weight("w", (5, 3), make_mesh(**ONE_AXIS))
    send_gradient(p, "g")
    with pytest.raises(GraphError, match=r"gradient of 'w' is \(5, 3; .*Partial.*call sync_gradients"):
        clip_grad_norm([p], 1.0)
