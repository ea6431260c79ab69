"""Counter-based random bits: a function of a key and of the global index, so that no cut changes them.

Each index but the last is hashed into a 64-bit word (the finaliser of SplitMix64, Steele, Lea & Flood 2014);
the last one is mixed with the two halves of that word by a 32-bit finaliser of two multiplications.
Only integer arithmetic: every backend gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from mpipar.backend.base import Array, DType
from mpipar.backend.numpy.arrays import blocks, dtype

GOLDEN64, GOLDEN32 = np.uint64(0x9E3779B97F4A7C15), np.uint32(0x9E3779B9)


def uniform(key: int, index: Sequence[Array], dtype_: DType) -> Array:
    """What would round to 0 or 1 in the dtype becomes the number next to it."""
    zero, one = np.zeros((), dtype(dtype_)), np.ones((), dtype(dtype_))
    low, high = float(np.nextafter(zero, one)), float(np.nextafter(one, zero))
    return _each(key, index, dtype_, lambda word: np.clip(_uniform(word), low, high))


def normal(key: int, index: Sequence[Array], dtype_: DType) -> Array:
    """Box-Muller, in float64: √(-2 ln u)·cos(2πv)."""
    return _each(key, index, dtype_, _normal)


def keep_mask(key: int, index: Sequence[Array], p: float, dtype_: DType) -> Array:
    bound, scale = np.uint32(min(int(p * 2**32), 2**32 - 1)), 1 / (1 - p)

    def kept(word: Callable[[int], Array]) -> Array:
        return (word(0) >= bound) * dtype(dtype_).type(scale)

    return _each(key, index, dtype_, kept)


def _each(
    key: int, index: Sequence[Array], dtype_: DType, make: Callable[[Callable[[int], Array]], Array]
) -> Array:
    """Runs `make` on blocks of rows; `word(stream)` are 32 bits an element, another word each stream."""
    *outer, last = index if len(index) else [np.zeros(1, np.int64)]
    rows = _row_words(key, outer)
    shape = tuple(len(i) for i in index)
    out = np.empty((rows.size, len(last)), dtype(dtype_))
    columns = last.astype(np.uint32) * GOLDEN32
    for part in blocks(rows.size, max(1, len(last))):
        out[part] = make(partial(_word, columns, rows[part]))
    return out.reshape(shape)


def _word(columns: Array, rows: Array, stream: int) -> Array:
    return _mix32(columns, _mix64(rows ^ np.uint64(stream)))


def _uniform(word: Callable[[int], Array], stream: int = 0) -> Array:
    """52 bits and a half, in (0, 1): with one bit more the half would round, and up to 1."""
    high, low = word(stream).astype(np.uint64), word(stream + 1).astype(np.uint64)
    return (((high << np.uint64(20)) ^ (low >> np.uint64(12))).astype(np.float64) + 0.5) * 2.0**-52


def _normal(word: Callable[[int], Array]) -> Array:
    return np.sqrt(-2 * np.log(_uniform(word, 0))) * np.cos(2 * np.pi * _uniform(word, 2))


def _row_words(key: int, outer: Sequence[Array]) -> Array:
    """A 64-bit word for each combination of the outer indices, flat in C order."""
    words = _mix64(np.array([key], np.uint64))
    for i in outer:
        words = _mix64((words[:, None] ^ (i.astype(np.uint64) * GOLDEN64)[None, :]).reshape(-1))
    return words


def _mix64(z: Array) -> Array:
    z = z + GOLDEN64
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _mix32(columns: Array, words: Array) -> Array:
    """(C,) and (N,) → (N, C): the low half of the row's word goes in first, the high half second."""
    low, high = words.astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)
    x = columns[None, :] ^ low[:, None]
    for half in (high, low):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
        x += half[:, None]
    return x
