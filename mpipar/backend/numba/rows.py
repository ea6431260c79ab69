"""What several kernels do to one row of numbers."""

from __future__ import annotations

from mpipar.backend.numba.arithmetic import compiled, exp


@compiled()
def largest(row, lowest):  # type: ignore[no-untyped-def]
    """Of a row, in eight chains: the compiler makes no lanes of a maximum, which may meet NaN."""
    a, b, c, d, e, f, g, h = lowest, lowest, lowest, lowest, lowest, lowest, lowest, lowest
    whole = row.size - row.size % 8
    for j in range(0, whole, 8):
        a, b, c, d = max(a, row[j]), max(b, row[j + 1]), max(c, row[j + 2]), max(d, row[j + 3])
        e, f, g, h = max(e, row[j + 4]), max(f, row[j + 5]), max(g, row[j + 6]), max(h, row[j + 7])
    top = max(a, b, c, d, e, f, g, h)
    for j in range(whole, row.size):
        top = max(top, row[j])
    return top


@compiled()
def powers(row, length, top, zero):  # type: ignore[no-untyped-def]
    """exp(row - top) in place, 0 from `length` on, and the sum."""
    total = zero
    for j in range(length):
        e = exp(row[j] - top)
        row[j] = e
        total += e
    for j in range(length, row.size):
        row[j] = zero
    return total
