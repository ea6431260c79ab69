"""Optimizer steps in place. A 16-bit weight is widened, updated in float32 and rounded back."""

from __future__ import annotations

import cupy as cp

from mpipar.backend.base import Array
from mpipar.backend.cupy.arrays import copy_into
from mpipar.backend.dtypes import widen


def sgd(
    param: Array, grad: Array, velocity: Array | None, lr: float, momentum: float,
    nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """v ← momentum·v + g; w ← w - lr·v (Nesterov: g + momentum·v). Decay is added to g."""
    w, g = widen(param), grad
    if weight_decay:
        g = g + weight_decay * w
    if velocity is not None:
        velocity *= momentum
        velocity += g
        g = g + momentum * velocity if nesterov else velocity
    copy_into(param, w - lr * g)


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1; `decoupled`: Loshchilov & Hutter 2019, algorithm 2. `step` counts from 1."""
    first, second = 1 - beta1**step, 1 - beta2**step
    w, g = widen(param), grad
    if weight_decay and decoupled:
        w = w * (1 - lr * weight_decay)
    elif weight_decay:
        g = g + weight_decay * w
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    copy_into(param, w - m / (cp.sqrt(v / second) + eps) * (lr / first))
