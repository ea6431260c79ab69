"""Terms of several ranks combined in their order, into the memory of several ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.dtypes import SIXTEEN_BIT, cast, widen

TILE = 1 << 13  # elements that are combined at a time: they stay in the cache until the last copy is written
COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def fold(outs: Sequence[Array], terms: Sequence[Array], op: str) -> None:
    """outs[k] ← terms[0] op terms[1] op …, all of one shape (R, K) and dtype; 16-bit floats in float32.

    outs[k] may be terms[k] itself, and overlaps no other term.
    """
    combine, (first, *others) = COMBINE[op], outs
    for tile in tiles(*first.shape):
        parts, total = [term[tile] for term in terms], first[tile]
        if first.dtype in SIXTEEN_BIT:
            total[...] = cast(reduce(combine, map(widen, parts)), first.dtype)
        else:
            combine(parts[0], parts[1], out=total)
            for part in parts[2:]:
                combine(total, part, out=total)
        for out in others:
            out[tile] = total


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    high = max(1, TILE // max(1, columns))
    for row in range(0, rows, high):
        for column in range(0, columns, TILE):
            yield slice(row, row + high), slice(column, column + TILE)
