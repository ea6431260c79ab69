"""Which library multiplies, and that its bits do not depend on where an array begins."""

import sys

import numpy as np
import pytest

from mpipar.errors import UsageError

blas = pytest.importorskip("mpipar.backend.numba.blas", reason="the extra fast is not installed")
gemm = pytest.importorskip("mpipar.backend.numba.gemm")

MKL, NUMPYS = "MKL", "NumPy's BLAS"
choose = blas.here.__wrapped__  # each time anew


@pytest.fixture
def asked(monkeypatch):
    return lambda name: monkeypatch.setenv(blas.VARIABLE, name)


@pytest.fixture
def without_mkl(monkeypatch):
    monkeypatch.setattr(blas, "_mkl_files", lambda: iter(()))


@pytest.mark.parametrize("intel", [True, False])
def test_numpys_where_the_user_says_so_or_mkl_is_not_there(intel, asked, monkeypatch, without_mkl):
    monkeypatch.setattr(blas, "is_intel", lambda: intel)
    asked("")
    assert choose().name == NUMPYS
    asked("numpy")
    assert choose().name == NUMPYS


def test_mkl_on_intel_alone_unless_it_is_asked_for(asked, monkeypatch):
    if not list(blas._mkl_files()):
        pytest.skip("MKL is not installed")
    for intel, asking, wanted in [
        (True, "", MKL),
        (False, "", NUMPYS),
        (True, "numpy", NUMPYS),
        (False, "mkl", MKL),
    ]:
        monkeypatch.setattr(blas, "is_intel", lambda intel=intel: intel)
        asked(asking)
        assert choose().name == wanted, (intel, asking)


def test_what_cannot_be_had_is_said(asked, without_mkl):
    asked("mkl")
    with pytest.raises(UsageError, match="pip install mkl"):
        choose()
    asked("openblas")
    with pytest.raises(
        UsageError, match="MPIPAR_BLAS=openblas is not known; write mkl, numpy, or leave it out"
    ):
        choose()


def test_a_library_that_is_not_one_is_passed_over(tmp_path, asked, monkeypatch):
    broken = tmp_path / "libmkl_rt.so.2"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(blas, "_mkl_files", lambda: iter([broken]))
    monkeypatch.setattr(blas, "is_intel", lambda: True)
    asked("")
    assert choose().name == NUMPYS


def test_condas_place_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libmkl_rt.so.2"
    library.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(blas, "files", lambda name: None)
    assert list(blas._mkl_files()) == [library]


@pytest.mark.parametrize("name", ["numpy", "mkl"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(5, 7, 3), (33, 65, 17), (256, 100, 130), (300, 1024, 256)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_the_same_bits_wherever_arrays_begin(name, dtype, size, turned, asked):
    """Ranks that hold the same numbers hold them at other addresses, and their replicas must stay equal."""
    if name == "mkl" and not list(blas._mkl_files()):
        pytest.skip("MKL is not installed")
    asked(name)
    at = choose().of(np.empty(0, dtype))
    rows, columns, summed = size
    draw = np.random.default_rng(0).standard_normal
    left, right = draw((rows, summed)).astype(dtype), draw((summed, columns)).astype(dtype)
    products = set()
    for offset in (0, 1, 2, 3, 5, 8, 13):
        a, b = placed(left, offset, turned), placed(right, (3 * offset) % 16, False)
        out = placed(np.zeros((rows, columns), dtype), (5 * offset) % 16, False)
        gemm.multiply(at, a, b, out)
        products.add(out.tobytes())
    assert len(products) == 1


def placed(x, offset, turned):
    """The same numbers, `offset` of them after a multiple of 64 bytes; `turned`: column by column."""
    room = np.empty(x.size + 32, x.dtype)
    first = (-room.ctypes.data % 64) // x.itemsize + offset
    flat = room[first : first + x.size]
    out = flat.reshape(x.shape[::-1]).T if turned else flat.reshape(x.shape)
    out[...] = x
    return out
