"""The matrix product that NumPy's own BLAS has and NumPy does not show: out ← a·b + out, on parts of arrays.

NumPy has loaded a BLAS; here its `cblas_sgemm` and `cblas_dgemm` are looked up in it. Compiled code calls them by their
address (`product`), so that a kernel may multiply blocks and never come back to Python. Where NumPy's BLAS has other
names, or does not multiply right by these, `here` is false and the kernels that need it are left out.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from threadpoolctl import ThreadpoolController

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numba.threads import over, workers
from mpipar.backend.numpy import arrays as plain

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of cblas.h
NAMES = (
    ("scipy_cblas_{}gemm64_", 64),
    ("cblas_{}gemm64_", 64),
    ("scipy_cblas_{}gemm", 32),
    ("cblas_{}gemm", 32),
)


class Blas(NamedTuple):
    """Where the two functions are, and the bits of their integers; zeros where there are none."""

    sgemm: int = 0
    dgemm: int = 0
    bits: int = 0

    def of(self, x: Array) -> tuple[int, int]:
        """What compiled code is handed to multiply arrays of this dtype."""
        return (self.sgemm if x.dtype == np.float32 else self.dgemm), self.bits


@cache
def here() -> Blas:
    """The BLAS that NumPy uses, tried once on a small product."""
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        handle = ctypes.CDLL(library.filepath)
        for name, bits in NAMES:
            single, double = (getattr(handle, name.format(letter), None) for letter in "sd")
            if single is not None and double is not None:
                found = Blas(_address(single), _address(double), bits)
                return found if _multiplies(found) else Blas()
    return Blas()


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _gemm(real: Any) -> Any:
    """The call of a cblas gemm of one dtype, its address and the width of its integers being arguments."""

    @intrinsic
    def gemm(
        context: Any, address: Any, wide: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any,
        b: Any, ldb: Any, beta: Any, c: Any, ldc: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at, wide, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = arguments
            enum, scalar, pointer = ir.IntType(32), context.get_value_type(real), ir.IntType(8).as_pointer()

            def call(word: ir.IntType) -> None:
                kinds = (
                    [enum] * 3 + [word] * 3 + [scalar, pointer, word, pointer, word, scalar, pointer, word]
                )
                function = builder.inttoptr(at, ir.FunctionType(ir.VoidType(), kinds).as_pointer())

                def fits(value: Any) -> Any:
                    return builder.trunc(value, word) if word.width < 64 else value

                def place(value: Any) -> Any:
                    return builder.inttoptr(value, pointer)

                builder.call(function, [
                    ir.Constant(enum, ROW_MAJOR), builder.trunc(ta, enum), builder.trunc(tb, enum),
                    fits(m), fits(n), fits(k), alpha, place(a), fits(lda), place(b), fits(ldb), beta, place(c),
                    fits(ldc),
                ])  # fmt: skip

            is_wide = builder.icmp_signed("==", wide, ir.Constant(wide.type, 64))
            with builder.if_else(is_wide) as (then, otherwise):
                with then:
                    call(ir.IntType(64))
                with otherwise:
                    call(ir.IntType(32))
            return context.get_dummy_value()

        word = types.int64
        signature = types.void(
            word, word, word, word, word, word, word, real, word, word, word, word, real, word, word
        )
        return signature, generate

    return gemm


_sgemm, _dgemm = _gemm(types.float32), _gemm(types.float64)


def gemm_of(
    at: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any,
    c: Any, ldc: Any,
) -> None:  # fmt: skip
    """cblas's own call, in compiled code, of the dtype that `alpha` has."""
    raise NotImplementedError("for compiled code")


@overload(gemm_of, inline="always")
def _gemm_of(
    at: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any,
    c: Any, ldc: Any,
) -> Any:  # fmt: skip
    gemm = {types.float32: _sgemm, types.float64: _dgemm}[alpha]

    def call(
        at: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any,
        c: Any, ldc: Any,
    ) -> None:  # fmt: skip
        gemm(at[0], at[1], ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)

    return call


@compiled()
def product(at, alpha, a, b, beta, c, ta=False, tb=False):  # type: ignore[no-untyped-def]
    """c ← alpha·a·b + beta·c, for compiled code; `ta` and `tb` transpose a and b. Rows may lie apart."""
    gemm_of(
        at, TRANSPOSED if ta else PLAIN, TRANSPOSED if tb else PLAIN, c.shape[0], c.shape[1],
        a.shape[0] if ta else a.shape[1], alpha, a.ctypes.data, max(1, a.shape[1], a.strides[0] // a.itemsize),
        b.ctypes.data, max(1, b.shape[1], b.strides[0] // b.itemsize), beta,
        c.ctypes.data, max(1, c.shape[1], c.strides[0] // c.itemsize),
    )  # fmt: skip


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    if workers.count == 1 or a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype:
        return np.matmul(a, b, out=out)
    into = np.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
    over(a.shape[0], b.size, lambda part: np.matmul(a[part], b, out=into[part]))
    return into


def affine(a: Array, b: Array, bias: Array) -> Array:
    at = here().of(a)
    if not (
        at[0] and a.size and takes(a) and takes(b)
    ):  # an array of nothing has no strides that BLAS would take
        return plain.affine(a, b, bias)
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)

    def of(part: slice) -> None:
        out[part] = bias
        _add(at, out[part], a[part], b)

    over(a.shape[0], b.size, of)
    return out


def add_product(out: Array, a: Array, b: Array) -> None:
    at = here().of(out)
    if at[0] and takes(a) and takes(b) and takes(out) and not is_turned(out):
        over(a.shape[0], b.size, lambda part: _add(at, out[part], a[part], b))
    else:
        plain.add_product(out, a, b)


def takes(x: Array) -> bool:
    """Whether BLAS takes this matrix where it lies: whole rows or whole columns, of a dtype that it multiplies."""
    far, near = (x.strides[1], x.strides[0]) if is_turned(x) else x.strides
    length = x.shape[0] if is_turned(x) else x.shape[1]
    apart = far >= length * x.itemsize and far % x.itemsize == 0
    return bool(near == x.itemsize and apart and x.dtype in (np.float32, np.float64))


def is_turned(x: Array) -> bool:
    """Whether the numbers of a column lie side by side, not those of a row."""
    return bool(x.strides[1] != x.itemsize)


def _add(at: tuple[int, int], out: Array, a: Array, b: Array) -> None:
    one = out.dtype.type(1)
    _accumulate(at, *out.shape, a.shape[1], one, *_place(a), *_place(b), *_place(out))


def _place(x: Array) -> tuple[int, int, int]:
    """How BLAS finds a matrix: turned or not, its address, and how far rows (or columns) are apart."""
    turned = is_turned(x)
    apart = x.strides[1 if turned else 0] // x.itemsize
    return TRANSPOSED if turned else PLAIN, x.__array_interface__["data"][0], max(1, apart)


@compiled()
def _accumulate(at, m, n, k, one, ta, a, lda, tb, b, ldb, _, c, ldc):  # type: ignore[no-untyped-def]
    """Of numbers only, whatever the arrays: compiled once a dtype."""
    gemm_of(at, ta, tb, m, n, k, one, a, lda, b, ldb, one, c, ldc)


def _multiplies(found: Blas) -> bool:
    for dtype in (np.float32, np.float64):
        a, b, c = np.arange(6, dtype=dtype).reshape(2, 3), np.ones((3, 4), dtype), np.ones((2, 4), dtype)
        _add(found.of(c), c, a, b)
        if not np.array_equal(c, a @ b + 1):
            return False
    return True
