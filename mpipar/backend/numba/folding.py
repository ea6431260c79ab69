"""The sum of two ranks' terms in one pass over memory: each element is read once and written to both ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from mpipar.backend.base import Array
from mpipar.backend.numpy import folding as by_numpy

ROW = 2048  # elements of a row from which a call of compiled code for it pays
compiled = njit(nogil=True, cache=True)  # without fast mathematics: the bits are those of NumPy


def fold(outs: Sequence[Array], terms: Sequence[Array], op: str) -> None:
    """As `backend.numpy.folding.fold`."""
    rows, columns = outs[0].shape
    pair = op == "sum" and len(terms) == 2 and outs[0].dtype in (np.float32, np.float64)
    if not pair or (rows > 1 and columns < ROW):
        by_numpy.fold(outs, terms, op)
        return
    for row in range(rows):
        add_row([out[row] for out in outs], terms[0][row], terms[1][row], all(map(_same, outs, terms)))


def add_row(outs: Sequence[Array], a: Array, b: Array, in_place: bool) -> None:
    if len(outs) == 1:
        _add(a, b, outs[0])
    elif in_place:
        _add_in_place(a, b)
    else:
        _add_to_both(a, b, *outs)


def _same(out: Array, term: Array) -> bool:
    return out is term


@compiled
def _add(a, b, out):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        out[i] = a[i] + b[i]


@compiled
def _add_in_place(a, b):  # type: ignore[no-untyped-def]
    """Written apart: where arrays overlap the compiler's own check would take the slow way."""
    for i in range(a.size):
        total = a[i] + b[i]
        a[i] = total
        b[i] = total


@compiled
def _add_to_both(a, b, out, other):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        total = a[i] + b[i]
        out[i] = total
        other[i] = total
