"""Arrays that every rank can make for every other: what a collective is compared with."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from mpipar.backend import numpy as cpu

DTYPES = ["float64", "float32", "float16", "bfloat16", "complex128", "complex64"]
DTYPES += ["int64", "int32", "int16", "int8", "uint8", "bool"]
COMBINE: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}
REFUSED = {("bool", "sum"), *((dtype, op) for dtype in ("complex64", "complex128") for op in ("max", "min"))}


def operations(dtype: str) -> list[Any]:
    """What the terms of a dtype can be combined by."""
    return [op for op in COMBINE if (dtype, op) not in REFUSED]


def of_rank(rank: int, shape: tuple[int, ...], dtype: str, *, turned: bool = False) -> Any:
    """The array of a rank: the same wherever it is made. `turned`: its memory is in the order of the last dim first."""
    draw = np.random.default_rng([rank, *shape])
    if dtype.startswith("complex"):
        wide: Any = draw.normal(size=shape) + 1j * draw.normal(size=shape)
    elif cpu.is_floating(cpu.zeros((), dtype)):
        wide = draw.normal(size=shape) * 3
    else:
        wide = draw.integers(0 if dtype.startswith("u") else -9, 10, shape)
    x = np.asarray(wide > 0 if dtype == "bool" else wide).astype(cpu.dtype(dtype))
    return np.asarray(x, order="F" if turned else "C")


def folded(arrays: list[Any], op: str) -> Any:
    """The arrays combined in the order of the ranks, 16-bit floats in float32."""
    dtype = arrays[0].dtype
    return np.asarray(reduce(COMBINE[op], map(cpu.widen, arrays))).astype(dtype)


def cut(x: Any, dim: int, sizes: list[int]) -> list[Any]:
    """Consecutive pieces along a dim."""
    return list(np.split(x, np.cumsum(sizes)[:-1], axis=dim))
