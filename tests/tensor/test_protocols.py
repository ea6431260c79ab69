"""What Python and NumPy ask of a Tensor: the right answer, or one message that says what to write."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from grids import ONE_AXIS

import mpipar as mp
from mpipar import GraphError, Partial, PlacementError, Shard

VALUES = np.ones((5, 3))


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


REFUSED = {
    "asarray": (np.asarray, r"write x.numpy\(\) for the whole \(collective\), x.local for my piece"),
    "list of them": (lambda x: np.array([x, x]), r"write x.numpy\(\)"),
    "numpy function": (np.sum, r"np.sum of a Tensor.*write x.sum\(…\) or mp.sum"),
    "bool": (bool, r"write x.item\(\).*x.all\(\) or x.any\(\)"),
    "in a list": (lambda x: x in [x + 1], "the truth of a Tensor.*any\\(x is y for y in list\\)"),
    "a number in it": (lambda x: 1 in x, r"\(x == value\).any\(\).item\(\)"),
    "iteration": (list, r"write x\[i\], or x.split\(1\)"),
    "pickle": (pickle.dumps, r"write x.numpy\(\) for the whole"),
    "assignment": (lambda x: x.__setitem__(0, 1), r"write  x = mp.where\(mask, value, x\)"),
    "None": (lambda x: x == None, "write  x is None"),  # noqa: E711
    "not None": (lambda x: x != None, "write  x is None"),  # noqa: E711
    "a word": (lambda x: x == "a", "a Tensor and a str do not mix"),
    "an array": (lambda x: x < VALUES, "a Tensor and a ndarray do not mix: write mp.tensor"),
    "an array on the left": (lambda x: x >= VALUES, "a Tensor and a ndarray do not mix: write mp.tensor"),
    "power of a number": (lambda x: 2**x, r"write  \(x \* math.log\(2\)\).exp\(\)"),
    "power by a Tensor": (lambda x: x**x, r"write  \(y \* x.log\(\)\).exp\(\)"),
    "and of numbers": (
        lambda x: x & x,
        r"& of a Tensor of float32: compare first, as  \(x > 0\) & \(y > 0\)",
    ),
    "or with a bool": (lambda x: (x > 0) | True, r"\| of a Tensor and a bool: boolean Tensors are wanted"),
    "not of numbers": (lambda x: ~x, r"compare first, as  ~\(x > 0\)"),
    "any of numbers": (lambda x: x.any(), r"compare first, as  \(x != 0\).any\(\)"),
    "a mask as index": (lambda x: x[x > 0], r"write  mp.where\(mask, x, 0\)"),
    "numbers as index": (lambda x: x[x], "float32; integers are wanted"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_and_says_what_to_write(name, mesh):
    ask, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        ask(mp.ones((5, 3), mesh, tp=Shard(0)))


def test_a_tensor_of_one_element_is_a_number(mesh):
    x = mp.full((1, 1), 2.5, mesh)
    assert (float(x), int(x), x.item(), f"{x:.3f}", f"{x}") == (2.5, 2, 2.5, "2.500", repr(x))
    with pytest.raises(PlacementError, match=r'Write  x.allreduce\("tp"\).item\(\)'):
        float(mp.zeros((), mesh, tp=Partial()))
    with pytest.raises(
        ValueError, match=r"item of x \(5, 3\): it has 15 elements, not one. Write  x\[0, 0\].item\(\)"
    ):
        float(mp.ones((5, 3), mesh))


def test_len_is_global(mesh):
    assert len(mp.ones((5, 3), mesh, tp=Shard(0))) == 5
    with pytest.raises(TypeError, match="len"):
        len(mp.ones((), mesh))


def test_a_tensor_is_itself_in_sets_dicts_and_lists(mesh):
    x, y = mp.ones((3,), mesh), mp.ones((3,), mesh)
    assert len({x, y, x}) == 2
    assert {x: 1, y: 2}[y] == 2
    assert y in [x, y][1:]


def test_a_leaf_is_copied_deeply_on_its_mesh_without_its_gradient(mesh):
    w = mp.parameter("w", (5, 3), mesh, tp=Shard(0))
    w.sum().backward()
    again = copy.deepcopy({"a": w, "tied": w})
    twin = again["a"]
    assert again["tied"] is twin
    assert (twin.mesh, twin.layout, twin.name, twin.is_leaf, twin.grad) == (mesh, w.layout, "w", True, None)
    with mp.no_grad():
        twin.zero_()
    assert w.numpy().any()
    assert copy.copy(w).local is w.local
    assert not copy.deepcopy(w.detach()).requires_grad
    with pytest.raises(GraphError, match=r"deepcopy of the result of 'scale': write x.detach\(\) first"):
        copy.deepcopy(w * 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2,), (400, 50), (2, 2, 2)])
def test_repr_tells_shape_placements_dtype_and_piece_shortly(shape, dtype, mesh):
    placements = {"tp": Shard(0)} if shape else {"tp": Partial()}
    text = repr(mp.ones(shape, mesh, dtype=dtype, name="x", **placements))
    layout = mp.ones(shape, mesh, **placements).layout
    assert text.startswith(f"Tensor('x' {layout} {dtype}, here {layout.local_shape(mesh.coords)}:")
    assert len(text) < 400


def test_repr_tells_of_a_gradient(mesh):
    assert "float32, requires_grad, here" in repr(mp.parameter("w", (2,), mesh))
