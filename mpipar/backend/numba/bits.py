"""Dropout's mask in one compiled pass: the same bits as NumPy's (see `backend/bits.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import uint32, uint64

from mpipar.backend.base import Array, DType
from mpipar.backend.bits import GOLDEN32, mask_numbers, mask_words
from mpipar.backend.dtypes import SIXTEEN_BIT, dtype
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numpy import arrays

LOW_HALF, WORD, SHIFT15, SHIFT16 = uint64(0xFFFFFFFF), uint64(32), uint32(15), uint32(16)
FIRST, SECOND = uint32(0x7FEB352D), uint32(0x846CA68B)


def keep_mask(key: int, index: Sequence[Array], p: float, dtype_: DType) -> Array:
    kind = dtype(dtype_)
    if len(index) == 0 or kind in SIXTEEN_BIT:
        return arrays.keep_mask(key, index, p, dtype_)
    *outer, last = index
    words = mask_words(np, key, outer)
    out = np.empty((words.size, last.size), kind)
    _keep_mask(words, last.astype(uint32) * GOLDEN32, *mask_numbers(p, kind), out)
    return out.reshape(tuple(i.size for i in index))


@compiled()
def _keep_mask(words, columns, bound, scale, out):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(words.size):
        low, high = uint32(words[i] & LOW_HALF), uint32(words[i] >> WORD)
        for j in range(columns.size):
            x = _mixed(_mixed(columns[j] ^ low, high), low)
            out[i, j] = scale if x >= bound else zero


@compiled(inline="always")
def _mixed(x, half):  # type: ignore[no-untyped-def]
    x = uint32(uint32(x ^ (x >> SHIFT16)) * FIRST)
    x = uint32(uint32(x ^ (x >> SHIFT15)) * SECOND)
    return uint32(uint32(x ^ (x >> SHIFT16)) + half)
