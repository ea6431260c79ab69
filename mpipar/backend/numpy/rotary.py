"""Rotary positions. Su et al. 2021 (RoFormer), section 3.2, in the form that Llama uses: the pairs are (i, i + D/2)."""

from __future__ import annotations

import numpy as np

from mpipar.backend.base import Array


def rotary(x: Array, positions: Array, base: float) -> Array:
    half = x.shape[-1] // 2
    cos, sin = turns(positions, half, base, x.dtype)
    left, right = x[..., :half], x[..., half:]
    y = np.empty(x.shape, x.dtype)
    np.multiply(left, cos, out=y[..., :half])
    y[..., :half] -= right * sin
    np.multiply(right, cos, out=y[..., half:])
    y[..., half:] += left * sin
    return y


def turns(positions: Array, half: int, base: float, dtype: np.dtype) -> tuple[Array, Array]:
    """cos and sin (T, 1, D/2) of every angle; float32 angles would be off by 1e-3 at position 20,000."""
    angles = positions[:, None, None] * base ** (np.arange(half) / -half)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
