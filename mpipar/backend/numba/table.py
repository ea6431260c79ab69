"""Rows of a table that are added to: one after the other, so that the order of a sum is that of the rows.

Threads share the columns, not the rows: no two of them write to one place.
"""

from __future__ import annotations

from math import prod

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numba.threads import over


def put_rows(g: Array, rows: Array, first: int, count: int) -> Array:
    out = np.zeros((count, *g.shape[rows.ndim :]), g.dtype)
    add_rows(out, g, rows, first)
    return out


def add_rows(out: Array, g: Array, rows: Array, first: int) -> None:
    if not (out.size and rows.size):
        return
    width = prod(out.shape[1:])
    table, places = out.reshape(len(out), width), np.asarray(rows, np.int64, order="C").reshape(-1)
    terms = np.asarray(g, order="C").reshape(len(places), width)
    over(width, len(places), lambda part: _add_rows(table, terms, places, first, part.start, part.stop))


@compiled()
def _add_rows(out, g, rows, first, start, stop):  # type: ignore[no-untyped-def]
    for i in range(rows.size):
        row = rows[i] - first
        if 0 <= row < out.shape[0]:
            for j in range(start, stop):
                out[row, j] += g[i, j]
