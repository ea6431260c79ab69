"""Dropout's mask in one compiled pass: the same bits as NumPy's (see `backend/numpy/bits.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpipar.backend.base import Array, DType
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numpy import bits
from mpipar.backend.numpy.arrays import SIXTEEN_BIT, dtype

U32, U64 = np.uint32, np.uint64
SHIFT15, SHIFT16, LOW_HALF = U32(15), U32(16), U64(0xFFFFFFFF)
FIRST, SECOND = U32(0x7FEB352D), U32(0x846CA68B)


def keep_mask(key: int, index: Sequence[Array], p: float, dtype_: DType) -> Array:
    kind = dtype(dtype_)
    if len(index) == 0 or kind in SIXTEEN_BIT:
        return bits.keep_mask(key, index, p, dtype_)
    *outer, last = index
    words = bits._mix64(bits._row_words(key, outer))
    out = np.empty((words.size, len(last)), kind)
    bound, scale = bits.mask_numbers(p, kind)
    _keep_mask(words, last.astype(np.uint32) * bits.GOLDEN32, bound, scale, out)
    return out.reshape(tuple(len(i) for i in index))


@compiled()
def _keep_mask(words, columns, bound, scale, out):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(words.size):
        low, high = U32(words[i] & LOW_HALF), U32(words[i] >> U64(32))
        for j in range(columns.size):
            x = _mixed(_mixed(columns[j] ^ low, high), low)
            out[i, j] = scale if x >= bound else zero


@compiled(inline="always")
def _mixed(x, half):  # type: ignore[no-untyped-def]
    x = U32(x ^ (x >> SHIFT16)) * FIRST
    x = U32(x)
    x = U32(x ^ (x >> SHIFT15)) * SECOND
    x = U32(x)
    return U32(U32(x ^ (x >> SHIFT16)) + half)
