"""The library whose matrix products compiled code calls, by the address of its `cblas_sgemm` and `cblas_dgemm`.

NumPy has loaded a BLAS, an OpenBLAS as a rule. On Intel's processors MKL is taken where it is installed (the extra
`fast` brings it on Linux): there its products take a tenth less time, on AMD's they take more. MPIPAR_BLAS=numpy leaves
it out, MPIPAR_BLAS=mkl takes it on any processor.

MKL is set to give the same bits wherever an array begins in memory, which replicas of a tensor need, and to
one thread: threads are ours (`threads`). Where neither library is found or multiplies right, `here` is empty and the
kernels that need it are left out.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from mpipar.backend.base import Array
from mpipar.backend.numba.gemm import multiply
from mpipar.errors import UsageError

VARIABLE = "MPIPAR_BLAS"
NAMES = (  # of the functions, by the bits of their integers
    ("scipy_cblas_{}gemm64_", 64),
    ("cblas_{}gemm64_", 64),
    ("scipy_cblas_{}gemm", 32),
    ("cblas_{}gemm", 32),
)
SEQUENTIAL, SAME_BITS = 1, 2  # MKL_THREADING_SEQUENTIAL and MKL_CBWR_AUTO of MKL's headers


class Blas(NamedTuple):
    """Where the two functions are, the bits of their integers, and whose they are; zeros where there are none."""

    sgemm: int = 0
    dgemm: int = 0
    bits: int = 0
    name: str = ""

    def of(self, x: Array) -> tuple[int, int]:
        """What compiled code is handed to multiply arrays of this dtype."""
        return (self.sgemm if x.dtype == np.float32 else self.dgemm), self.bits


@cache
def here() -> Blas:
    """The BLAS of this process, tried once on a small product."""
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "mkl", "numpy"):
        raise UsageError(f"{VARIABLE}={asked} is not known; write mkl, numpy, or leave it out")
    if asked == "mkl" or (not asked and is_intel()):
        if found := _mkl():
            return found
        if asked:
            raise UsageError(f"{VARIABLE}=mkl: libmkl_rt is not found or does not run. Write pip install mkl")
    return next(filter(None, map(_numpy, _loaded())), Blas())


def is_intel() -> bool:
    """Whether the processor is one of Intel's, as Linux says."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


def _loaded() -> list[str]:
    """The files of the BLAS libraries that NumPy has loaded."""
    return [x.filepath for x in ThreadpoolController().select(user_api="blas").lib_controllers]


def _numpy(path: str) -> Blas | None:
    handle = ctypes.CDLL(path)
    for name, bits in NAMES:
        single, double = (getattr(handle, name.format(letter), None) for letter in "sd")
        if single is not None and double is not None:
            return _tried(Blas(_address(single), _address(double), bits, "NumPy's BLAS"))
    return None


def _mkl() -> Blas | None:
    for path in _mkl_files():
        try:
            handle = ctypes.CDLL(str(path))
            handle.MKL_Set_Threading_Layer(SEQUENTIAL)
            handle.MKL_CBWR_Set(SAME_BITS)
            functions = _address(handle.cblas_sgemm_64), _address(handle.cblas_dgemm_64)
        except (OSError, AttributeError):  # not to be loaded here, or too old
            continue
        return _tried(Blas(*functions, 64, "MKL"))
    return None


def _mkl_files() -> Iterator[Path]:
    """libmkl_rt of the wheel `mkl`, then of conda, which puts it beside Python's own libraries."""
    try:
        listed = files("mkl") or []
    except PackageNotFoundError:
        listed = []
    yield from (Path(str(file.locate())).resolve() for file in listed if file.name.startswith("libmkl_rt."))
    yield from Path(sys.prefix, "lib").glob("libmkl_rt.so*")


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _tried(found: Blas) -> Blas | None:
    """The library if it multiplies right."""
    for dtype in (np.float32, np.float64):
        a, b, c = np.arange(6, dtype=dtype).reshape(2, 3), np.ones((3, 4), dtype), np.ones((2, 4), dtype)
        multiply(found.of(c), a, b, c, adds=True)
        if not np.array_equal(c, a @ b + 1):
            return None
    return found
