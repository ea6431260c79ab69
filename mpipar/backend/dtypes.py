"""Dtypes by name, and what is computed in float32: alike in every array library, for all take NumPy's dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from mpipar.backend.base import Array, DType

SIXTEEN_BIT = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def dtype(name: DType) -> Any:
    """NumPy's dtype of a name, "bfloat16" included."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def cast(x: Array, dtype_: DType) -> Array:
    with np.errstate(over="ignore"):  # what float16 cannot hold is infinite: loss scaling looks for that
        return x.astype(dtype(dtype_), copy=False)


def is_floating(x: Array) -> bool:
    return x.dtype.kind == "f" or x.dtype in SIXTEEN_BIT


def widen(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype in SIXTEEN_BIT else x


def lowest(x: Array) -> Any:
    """What no element is below: -inf, the dtype's least whole number, or False."""
    if is_floating(x):
        return -np.inf
    return False if x.dtype == np.bool_ else np.iinfo(x.dtype).min
