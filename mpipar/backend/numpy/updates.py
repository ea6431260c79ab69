"""Optimizer steps in place, in blocks that stay in the cache.

A 16-bit weight is widened, updated in float32 and rounded back.
"""

from __future__ import annotations

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.dtypes import widen
from mpipar.backend.numpy.arrays import blocks


def sgd(
    param: Array, grad: Array, velocity: Array | None, lr: float, momentum: float,
    nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """v ← momentum·v + g; w ← w - lr·v (Nesterov: g + momentum·v). Decay is added to g."""
    flat, flat_grad = flat_view(param), grad.reshape(-1)
    for part in blocks(param.size):
        w, g = widen(flat[part]), flat_grad[part]
        if weight_decay:
            g = g + weight_decay * w
        if velocity is not None:
            v = flat_view(velocity)[part]
            v *= momentum
            v += g
            g = g + momentum * v if nesterov else v
        flat[part] = w - lr * g


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1; `decoupled`: Loshchilov & Hutter 2019, algorithm 2. `step` counts from 1."""
    first, second = 1 - beta1**step, 1 - beta2**step
    flat, flat_grad, flat_m, flat_v = flat_view(param), grad.reshape(-1), flat_view(m), flat_view(v)
    for part in blocks(param.size):
        w, g, a, b = widen(flat[part]), flat_grad[part], flat_m[part], flat_v[part]
        if weight_decay and decoupled:
            w = w * (1 - lr * weight_decay)
        elif weight_decay:
            g = g + weight_decay * w
        a *= beta1
        a += (1 - beta1) * g
        b *= beta2
        b += (1 - beta2) * (g * g)
        change = np.sqrt(b / second)
        change += eps
        np.divide(a, change, out=change)
        change *= lr / first
        flat[part] = w - change


def flat_view(x: Array) -> Array:
    """The array as one row, in its own memory. Raises ValueError where that needs a copy, which would change alone."""
    return x.reshape(-1, copy=False)
