"""Making Tensors and looking at them: each rank makes only its piece, the values are the same on every mesh.

A failure of the values means that something depended on the rank or on the local shape where it should depend on the
global index.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS, all_grids

import mpipar as mp
from mpipar import Partial, PlacementError, Shard
from mpipar.job import world
from mpipar.testing import count_collectives
from mpipar.testing.moves import layouts_of
from mpipar.testing.values import placed_as

VALUES = np.random.default_rng(0).standard_normal((5, 3))
MAKERS = {
    "tensor": lambda mesh, **p: mp.tensor(VALUES, mesh, **p),
    "zeros": lambda mesh, **p: mp.zeros((5, 3), mesh, **p),
    "ones": lambda mesh, **p: mp.ones((5, 3), mesh, **p),
    "full": lambda mesh, **p: mp.full((5, 3), 2.5, mesh, **p),
    "randn": lambda mesh, **p: mp.randn("x", (5, 3), mesh, **p),
    "normal": lambda mesh, **p: mp.normal("x", (5, 3), mesh, std=0.1, seed=4, dtype="float64", **p),
    "uniform": lambda mesh, **p: mp.uniform("x", (5, 3), mesh, **p),
    "uniform between": lambda mesh, **p: mp.uniform("x", (5, 3), mesh, low=-2, high=3, dtype="float64", **p),
    "parameter": lambda mesh, **p: mp.parameter("x", (5, 3), mesh, **p),
    "bfloat16": lambda mesh, **p: mp.randn("x", (5, 3), mesh, dtype="bfloat16", **p),
}


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@all_grids
@pytest.mark.parametrize("name", MAKERS)
def test_values_are_those_of_one_rank_on_every_layout(name, axes, make_mesh):
    mesh, make = make_mesh(**axes), MAKERS[name]
    expected = make(mp.Mesh(ranks=[world().rank])).numpy()
    for layout in layouts_of(mesh, (5, 3), mesh.grid.named):
        with count_collectives(mesh) as counts:
            x = make(mesh, **placed_as(layout))
        assert counts == {}
        assert x.layout == layout
        assert tuple(x.local.shape) == layout.local_shape(mesh.coords)
        np.testing.assert_array_equal(x.numpy(), expected)


@all_grids
def test_arange_and_a_number_on_every_layout(axes, make_mesh):
    mesh = make_mesh(**axes)
    for layout in layouts_of(mesh, (5,), mesh.grid.named):
        np.testing.assert_array_equal(mp.arange(5, mesh, **placed_as(layout)).numpy(), np.arange(5))
    for layout in layouts_of(mesh, (), mesh.grid.named):
        assert mp.tensor(2.5, mesh, **placed_as(layout)).numpy() == 2.5
        assert mp.randn("x", (), mesh, **placed_as(layout)).numpy() == mp.randn("x", (), mesh).numpy()


def test_two_names_and_two_seeds_give_different_numbers(mesh):
    made = [mp.randn("a", (5,), mesh), mp.randn("b", (5,), mesh), mp.randn("a", (5,), mesh, seed=1)]
    numbers = {tuple(x.numpy().tolist()) for x in made}
    assert len(numbers) == 3


def test_a_parameter_has_the_standard_deviation_of_its_first_dim(mesh):
    w = mp.parameter("w", (100, 200), mesh, dtype="float64", tp=Shard(1))
    assert w.requires_grad
    assert w.numpy().std() == pytest.approx(0.1, rel=0.02)
    assert mp.parameter("w", (100, 200), mesh, std=2.0, dtype="float64").numpy().std() == pytest.approx(
        2, rel=0.02
    )


def test_a_tensor_keeps_numbers_of_its_own(mesh):
    given = np.ones((5, 3))
    x = mp.tensor(given, mesh, tp=Shard(0))
    given[:] = 0
    np.testing.assert_array_equal(x.numpy(), np.ones((5, 3)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int64", "int32", "bool"])
def test_dtypes(dtype, mesh):
    x = mp.tensor([[1, 0, 1]], mesh, dtype=dtype)
    assert str(x.dtype) == dtype
    assert x.is_floating == ("float" in dtype)
    np.testing.assert_array_equal(x.numpy().astype("float64"), [[1, 0, 1]])


def test_from_local_takes_the_piece_that_the_layout_has_here(mesh):
    whole = mp.randn("x", (5, 3), mesh, dtype="float64", tp=Shard(0))
    x = mp.from_local(whole.local, mesh, (5, 3), tp=Shard(0), requires_grad=True, name="x")
    assert x.is_leaf
    np.testing.assert_array_equal(x.numpy(), whole.numpy())
    with pytest.raises(
        PlacementError, match=r"from_local: x \(6, 3; tp=Shard\(1\)\) has a piece of \(6, \d\) on rank"
    ):
        mp.from_local(whole.local, mesh, (6, 3), name="x", tp=Shard(1))


def test_integers_have_no_gradient(mesh):
    with pytest.raises(TypeError, match="ids: a tensor of int64 has no gradient"):
        mp.arange(3, mesh, requires_grad=True, name="ids")


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ({"tp": Shard(2)}, r"\(5, 3\).*axis 'tp': Shard\(2\) of a tensor of 2 dims"),
        ({"tp": Shard(-1)}, r"axis 'tp': Shard\(-1\)"),
        ({"tq": Shard(0)}, "axis 'tq' is not an axis of the mesh, which has tp, dp"),
    ],
)
def test_wrong_placements_are_refused(placements, message, mesh):
    with pytest.raises(PlacementError, match=message):
        mp.zeros((5, 3), mesh, **placements)


# ---- looking ---------------------------------------------------------------------------------------------------


@all_grids
def test_looking_at_my_piece_never_communicates(axes, make_mesh):
    mesh = make_mesh(**axes)
    for layout in layouts_of(mesh, (5, 3), mesh.grid.named):
        x = mp.randn("x", (5, 3), mesh, **placed_as(layout))
        with count_collectives(mesh) as counts:
            text = repr(x)
            _ = x.local, x.shape, x.ndim, x.dtype, x.placements, x.grad, x.requires_grad
        assert counts == {}
        assert str(layout) in text


def test_item(mesh):
    assert mp.full((), 2.5, mesh).item() == 2.5
    assert mp.full((1, 1), 3, mesh, dtype="int64").item() == 3
    with pytest.raises(
        PlacementError, match=r'item of loss \(; ?tp=Partial\(\)\).*Write  x.allreduce\("tp"\).item\(\)'
    ):
        mp.zeros((), mesh, name="loss", tp=Partial()).item()
    with pytest.raises(PlacementError, match=r'x.allgather\("tp"\).item\(\)'):
        mp.zeros((1,), mesh, tp=Shard(0)).item()


def test_a_tensor_is_no_numpy_array(mesh):
    x = mp.zeros((5, 3), mesh)
    with pytest.raises(
        TypeError, match=r"write x.numpy\(\) for the whole \(collective\), x.local for my piece"
    ):
        np.asarray(x)
    for mixed in (
        lambda: VALUES * x,
        lambda: x * VALUES,
        lambda: x + VALUES,
        lambda: VALUES - x,
        lambda: x / [1.0],
    ):
        with pytest.raises(
            TypeError, match=r"a Tensor and a (ndarray|list) do not mix: write mp.tensor\(value, mesh"
        ):
            mixed()


def test_numbers_of_numpy_are_numbers(mesh):
    x = mp.ones((5, 3), mesh, dtype="float32", tp=Shard(0))
    for two in (2, 2.0, np.float32(2), np.float64(2), np.int64(2)):
        for y, expected in (
            (x * two, 2),
            (two + x, 3),
            (two - x, 1),
            (x - two, -1),
            (x / two, 0.5),
            (two / x, 2),
        ):
            assert y.dtype == "float32"
            np.testing.assert_array_equal(y.numpy(), np.full((5, 3), expected))
