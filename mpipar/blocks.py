"""The block rule: how n rows are divided over p ranks. The one place that knows it.

The first ``n mod p`` ranks hold one row more; pieces may be empty.

>>> balanced(5, 4)
(2, 1, 1, 1)
>>> balanced(2, 3)
(1, 1, 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def balanced(n: int, size: int) -> tuple[int, ...]:
    """The lengths of the `size` consecutive pieces of `n` rows."""
    short, longer = divmod(n, size)
    return tuple(short + (rank < longer) for rank in range(size))


def offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each piece starts, and where the last one ends.

    >>> offsets((2, 1, 1))
    (0, 2, 3, 4)
    """
    return tuple(accumulate(sizes, initial=0))


def spread(start: int, stop: int, size: int) -> tuple[int, ...]:
    """The starts of the `size` balanced pieces of the rows `start` to `stop`."""
    return tuple(start + offset for offset in offsets(balanced(stop - start, size))[:-1])
