"""DLPack both ways: the memory is shared, bfloat16 too, and what cannot be shared is refused.

The other library is NumPy here, and a small consumer and a small producer that speak bfloat16, which NumPy does not.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from grids import ONE_AXIS, cpu_alone

import mpipar as mp
from mpipar import PlacementError, Shard
from mpipar.backend import numpy as cpu

BFLOAT = 4
pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def field(capsule, offset: int, kind, name: bytes = b"dltensor"):
    """A field of what a capsule holds."""
    return kind.from_address(pointer(capsule, name) + offset)


class Producer:
    """bfloat16 of another library: bits that are called so."""

    def __init__(self, bits):
        self.bits = bits

    def __dlpack_device__(self):
        return self.bits.__dlpack_device__()

    def __dlpack__(self, **asked):
        capsule = self.bits.__dlpack__(max_version=(1, 0))
        field(capsule, 52, ctypes.c_uint8, b"dltensor_versioned").value = BFLOAT
        return capsule


class Elsewhere(Producer):
    """On a device that no mesh of this suite has."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **asked):
        raise BufferError("these are the numbers of a GPU")


@pytest.fixture
def mesh(make_mesh):
    return make_mesh(**ONE_AXIS)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"])
def test_the_memory_is_shared_both_ways(dtype, mesh):
    x = mp.ones((5, 3), mesh, dtype=dtype, tp=Shard(0))
    theirs = np.from_dlpack(x)
    x.zero_()
    assert not theirs.any()
    mine = np.ones((5, 3), dtype)
    y = mp.from_dlpack(mine, mesh)
    mine[:] = 0
    assert not y.numpy().any()
    y.fill_(1)
    assert mine.all()
    assert str(y.dtype) == dtype


def test_bfloat16_goes_out_under_its_own_name(mesh):
    x = mp.full((2, 3), 1.5, mesh, dtype="bfloat16")
    capsule = mp.to_dlpack(x)
    assert field(capsule, 20, ctypes.c_uint8).value == BFLOAT
    assert field(capsule, 21, ctypes.c_uint8).value == 16
    assert field(capsule, 0, ctypes.c_void_p).value == mesh.xp.addresses(x.local)[0]
    assert x.__dlpack__(max_version=(1, 0)) is not None


def test_bfloat16_comes_in_as_what_it_is(mesh):
    values = np.array([1.5, -2], cpu.dtype("bfloat16"))
    x = mp.from_dlpack(Producer(values.view(np.uint16)), mesh)
    assert str(x.dtype) == "bfloat16"
    x.mul_(2)
    assert values.tolist() == [3, -4]


def test_a_piece_needs_the_global_shape(mesh):
    piece = np.ones((2, 3))
    with pytest.raises(PlacementError, match="is the piece of this rank; write  from_dlpack"):
        mp.from_dlpack(piece, mesh, tp=Shard(0))
    whole = (2 * mesh.size, 3)
    assert mp.from_dlpack(piece, mesh, whole, tp=Shard(0), name="x").shape == whole
    with pytest.raises(PlacementError, match="has a piece of"):
        mp.from_dlpack(piece, mesh, (2 * mesh.size + mesh.size, 3), tp=Shard(0))


def test_a_leaf_that_requires_a_gradient_goes_out_detached_only(mesh):
    w = mp.parameter("w", (3,), mesh)
    for ask in (np.from_dlpack, mp.to_dlpack):
        with pytest.raises(BufferError, match=r"requires a gradient.*Write  x.detach\(\)"):
            ask(w)
    np.from_dlpack(w.detach())[:] = 0
    assert not w.numpy().any()


def test_a_leaf_may_live_in_the_memory_of_another_library(mesh):
    mine = np.ones(3)
    w = mp.from_dlpack(mine, mesh, requires_grad=True, name="w")
    (w * 3).sum().backward()
    assert w.grad.numpy().tolist() == [3, 3, 3]
    with mp.no_grad():
        w.add_(1)
    assert mine.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"C order; write  mp.from_local\(copy"):
        mp.from_dlpack(np.ones((2, 3)).T, mesh, requires_grad=True)


@cpu_alone
def test_strides_travel_and_what_may_only_be_read_stays_so(mesh):
    x = mp.ones((2, 3), mesh).transpose(0, 1)
    assert np.from_dlpack(x).strides == x.local.strides
    fixed = np.ones(3)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only; change a copy: x.clone\(\)"):
        mp.from_dlpack(fixed, mesh).zero_()


def test_what_cannot_be_shared_is_refused(mesh):
    with pytest.raises(TypeError, match=r"a list has no __dlpack__: write  mp.tensor"):
        mp.from_dlpack([1, 2], mesh)
    with pytest.raises(
        BufferError, match="a Elsewhere on DLPack's device 2:0, and the arrays of this mesh are on"
    ):
        mp.from_dlpack(Elsewhere(np.ones(2)), mesh)
