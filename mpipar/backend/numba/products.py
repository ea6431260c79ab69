"""Products of matrices by the library of `blas`, rows cut over the threads; what it does not take goes NumPy's way."""

from __future__ import annotations

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.blas import here
from mpipar.backend.numba.gemm import is_turned, multiply, takes
from mpipar.backend.numba.threads import over
from mpipar.backend.numpy import arrays as plain


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    if not (a.ndim == b.ndim == 2 and a.dtype == b.dtype and fits(a, b, out)):
        return np.matmul(a, b, out=out)
    into = np.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
    at = here().of(a)
    over(a.shape[0], b.size, lambda part: multiply(at, a[part], b, into[part]))
    return into


def affine(a: Array, b: Array, bias: Array) -> Array:
    if not fits(a, b):
        return plain.affine(a, b, bias)
    out, at = np.empty((a.shape[0], b.shape[1]), a.dtype), here().of(a)

    def of(part: slice) -> None:
        out[part] = bias
        multiply(at, a[part], b, out[part], adds=True)

    over(a.shape[0], b.size, of)
    return out


def add_product(out: Array, a: Array, b: Array) -> None:
    if not fits(a, b, out):
        plain.add_product(out, a, b)
        return
    at = here().of(a)
    over(a.shape[0], b.size, lambda part: multiply(at, a[part], b, out[part], adds=True))


def fits(a: Array, b: Array, out: Array | None = None) -> bool:
    """Whether BLAS takes these where they lie. An array of nothing has no strides that it would take."""
    placed = out is None or (takes(out) and not is_turned(out))
    return bool(here().sgemm and a.size and b.size and takes(a) and takes(b) and placed)
