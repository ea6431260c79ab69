"""bfloat16 is how numbers are stored, float32 how they are computed with.

An operation on bfloat16 gives what it gives on float32, rounded once, and float32 gradients with the same bits. A
failure where only some bits differ means a second rounding: something was computed in 16 bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from grids import ONE_AXIS
from op_cases import CASES

from mpipar import Tensor
from mpipar.testing import legal_placements
from mpipar.testing.values import leaf, represented, spread, wholes_of

WIDE = ("head and cross-entropy", "tied head and cross-entropy")  # a sum over all rows stays float32


@pytest.mark.parametrize("name", CASES)
def test_an_operation_rounds_once(name, make_mesh):
    case, mesh = CASES[name], make_mesh(**ONE_AXIS)
    inputs = case.make(mesh, "bfloat16")
    wholes = wholes_of(inputs)
    for combination in legal_placements(case.f, *inputs):
        stored = [whole.on(mesh, p) for whole, p in zip(wholes, combination, strict=True)]
        wide = [leaf(mesh.xp.widen(x.local), mesh, x.layout) if x.is_floating else x for x in stored]
        y, expected = case.f(*stored), case.f(*wide)
        assert str(y.dtype) == ("float32" if name in WIDE else "bfloat16")
        assert bits(y) == bits(expected.astype(str(y.dtype)))
        g = Tensor(represented(mesh, y.layout.dual, "gradient", "float32"), mesh, y.layout.dual)
        y.backward(g)
        expected.backward(g)
        for mine, theirs in zip(stored, wide, strict=True):
            if mine.grad is None:  # an integer, or what was only compared with
                assert theirs.grad is None
            else:
                assert str(mine.grad.dtype) == "float32"
                assert bits(mine.grad) == bits(theirs.grad)


def bits(x: Tensor) -> bytes:
    return x.mesh.xp.to_host(x.local).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_astype_keeps_gradients_as_wide_as_they_are(dtype, make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    x = spread(np.linspace(-2, 2, 15).reshape(5, 3), mesh, {})
    y = x.astype(dtype)
    assert str(y.dtype) == dtype
    y.astype("float32").square().sum().backward()
    assert str(x.grad.dtype) == "float64"
    np.testing.assert_allclose(x.grad.numpy(), 2 * y.astype("float64").numpy(), rtol=1e-6)


def test_two_dtypes_do_not_mix_in_silence(make_mesh):
    mesh = make_mesh(**ONE_AXIS)
    x, y = (spread(np.ones((5, 3), dtype), mesh, {}, dtype) for dtype in ("float32", "float64"))
    with pytest.raises(TypeError, match=r"add: 'float32'.*'float64'.*write x.astype"):
        x + y
