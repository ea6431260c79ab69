"""cblas's gemm as compiled code calls it: by its address, on parts of arrays (see `blas` for whose it is)."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of cblas.h


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


def multiply(at: tuple[int, int], a: Array, b: Array, out: Array, *, adds: bool = False) -> None:
    """out ← a·b, or where it `adds` a·b + out, of matrices that BLAS `takes`; `out` is not turned."""
    one = out.dtype.type(1)
    before = one if adds else one - one
    _multiply(at, *out.shape, a.shape[1], one, *_place(a), *_place(b), before, *_place(out))


def takes(x: Array) -> bool:
    """Whether BLAS takes this matrix where it lies: whole rows or whole columns, of a dtype that it multiplies."""
    far, near = (x.strides[1], x.strides[0]) if is_turned(x) else x.strides
    length = x.shape[0] if is_turned(x) else x.shape[1]
    apart = far >= length * x.itemsize and far % x.itemsize == 0
    return bool(near == x.itemsize and apart and x.dtype in (np.float32, np.float64))


def is_turned(x: Array) -> bool:
    """Whether the numbers of a column lie side by side, not those of a row."""
    return bool(x.strides[1] != x.itemsize)


def _place(x: Array) -> tuple[int, int, int]:
    """How BLAS finds a matrix: turned or not, its address, and how far rows (or columns) are apart."""
    turned = is_turned(x)
    apart = x.strides[1 if turned else 0] // x.itemsize
    return TRANSPOSED if turned else PLAIN, x.__array_interface__["data"][0], max(1, apart)


@compiled()
def _multiply(at, m, n, k, one, ta, a, lda, tb, b, ldb, before, _, c, ldc):  # type: ignore[no-untyped-def]
    """Of numbers only, whatever the arrays: compiled once a dtype."""
    gemm_of(at, ta, tb, m, n, k, one, a, lda, b, ldb, before, c, ldc)
