"""Counter-based random bits: a function of a key and of the global index, so that no cut changes them.

Each index but the last is hashed into a 64-bit word (the finaliser of SplitMix64, Steele, Lea & Flood 2014);
the last one is mixed with the two halves of that word by a 32-bit finaliser of two multiplications.
Only integer arithmetic, and from there to `uniform` only steps that do not round: every backend gives the same bits.
So this is written once, on `np`: NumPy, or CuPy, which has its names. `block` is the elements of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy
from numpy import uint32, uint64

from mpipar.backend.base import Array, DType
from mpipar.backend.dtypes import dtype

Word: TypeAlias = Callable[[int], Array]  # 32 bits an element, other ones for each number

GOLDEN64, GOLDEN32 = uint64(0x9E3779B97F4A7C15), uint32(0x9E3779B9)


def uniform(np: Any, block: int, key: int, index: Sequence[Array], dtype_: DType) -> Array:
    """What would round to 0 or 1 in the dtype becomes the number next to it."""
    zero, one = numpy.zeros((), dtype(dtype_)), numpy.ones((), dtype(dtype_))
    low, high = float(numpy.nextafter(zero, one)), float(numpy.nextafter(one, zero))
    return _each(np, block, key, index, dtype_, lambda word: np.clip(_uniform(word), low, high))


def normal(np: Any, block: int, key: int, index: Sequence[Array], dtype_: DType) -> Array:
    """Box-Muller, in float64: √(-2 ln u)·cos(2πv). The last bits are those of the library's log and cos."""

    def drawn(word: Word) -> Array:
        return np.sqrt(np.log(_uniform(word, 0)) * -2) * np.cos(_uniform(word, 2) * (2 * numpy.pi))

    return _each(np, block, key, index, dtype_, drawn)


def keep_mask(np: Any, block: int, key: int, index: Sequence[Array], p: float, dtype_: DType) -> Array:
    bound, scale = mask_numbers(p, dtype_)
    return _each(np, block, key, index, dtype_, lambda word: (word(0) >= bound) * scale)


def mask_numbers(p: float, dtype_: DType) -> tuple[uint32, Any]:
    """The least word of an element that is kept, and what the element is multiplied by."""
    return uint32(min(int(p * 2**32), 2**32 - 1)), dtype(dtype_).type(1 / (1 - p))


def mask_words(np: Any, key: int, outer: Sequence[Array]) -> Array:
    """The 64-bit word of each row of a mask."""
    return _mix64(_row_words(np, key, outer))


def _each(
    np: Any, block: int, key: int, index: Sequence[Array], dtype_: DType, make: Callable[[Word], Array]
) -> Array:
    """Runs `make` on blocks of rows."""
    *outer, last = index if len(index) else [np.zeros(1, numpy.int64)]
    rows, shape = _row_words(np, key, outer), tuple(i.size for i in index)
    out = np.empty((rows.size, last.size), dtype(dtype_))
    columns = last.astype(uint32) * GOLDEN32
    for part in blocks(rows.size, last.size, block):
        out[part] = make(partial(_word, columns, rows[part]))
    return out.reshape(shape)


def blocks(count: int, width: int, size: int) -> Iterator[slice]:
    """Slices over `count` rows of `width` elements, about `size` elements each."""
    rows = size // (width or 1) or 1
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _word(columns: Array, rows: Array, stream: int) -> Array:
    return _mix32(columns, _mix64(rows ^ uint64(stream)))


def _uniform(word: Word, stream: int = 0) -> Array:
    """52 bits and a half, in (0, 1): with one bit more the half would round, and up to 1."""
    high, low = word(stream).astype(uint64), word(stream + 1).astype(uint64)
    return (((high << uint64(20)) ^ (low >> uint64(12))).astype(numpy.float64) + 0.5) * 2.0**-52


def _row_words(np: Any, key: int, outer: Sequence[Array]) -> Array:
    """A 64-bit word for each combination of the outer indices, flat in C order."""
    words = _mix64(np.full((1,), uint64(key), uint64))
    for i in outer:
        words = _mix64((words[:, None] ^ (i.astype(uint64) * GOLDEN64)[None, :]).reshape(-1))
    return words


def _mix64(z: Array) -> Array:
    z = z + GOLDEN64
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    return z ^ (z >> uint64(31))


def _mix32(columns: Array, words: Array) -> Array:
    """(C,) and (N,) → (N, C): the low half of the row's word goes in first, the high half second."""
    low, high = words.astype(uint32), (words >> uint64(32)).astype(uint32)
    x = columns[None, :] ^ low[:, None]
    for half in (high, low):
        x ^= x >> uint32(16)
        x *= uint32(0x7FEB352D)
        x ^= x >> uint32(15)
        x *= uint32(0x846CA68B)
        x ^= x >> uint32(16)
        x += half[:, None]
    return x
