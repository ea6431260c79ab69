"""Optimizer steps in one pass over weight, gradient and state. 16-bit weights go the way of NumPy."""

from __future__ import annotations

import numpy as np

from mpipar.backend.base import Array
from mpipar.backend.dtypes import SIXTEEN_BIT
from mpipar.backend.numba.arithmetic import compiled
from mpipar.backend.numba.kernels import constants
from mpipar.backend.numba.threads import over
from mpipar.backend.numpy import updates
from mpipar.backend.numpy.updates import flat_view


def sgd(
    param: Array, grad: Array, velocity: Array | None, lr: float, momentum: float,
    nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """v ← momentum·v + g; w ← w - lr·v (Nesterov: g + momentum·v). Decay is added to g."""
    if param.dtype in SIXTEEN_BIT or velocity is None:
        updates.sgd(param, grad, velocity, lr, momentum, nesterov, weight_decay)
    else:
        numbers = constants(param.dtype, lr, momentum, weight_decay)
        w, g, v = flat_view(param), grad.reshape(-1), flat_view(velocity)
        over(w.size, 1, lambda part: _sgd(w[part], g[part], v[part], *numbers, nesterov))


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1; `decoupled`: Loshchilov & Hutter 2019, algorithm 2. `step` counts from 1."""
    if param.dtype in SIXTEEN_BIT:
        updates.adam(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled)
        return
    kept, added = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    rate, second = lr / (1 - beta1**step), 1 / (1 - beta2**step)
    numbers = constants(param.dtype, kept, added, rate, second, beta1, 1 - beta1, beta2, 1 - beta2, eps)
    w, g, m, v = flat_view(param), grad.reshape(-1), flat_view(m), flat_view(v)
    over(w.size, 1, lambda part: _adam(w[part], g[part], m[part], v[part], *numbers))


@compiled()
def _sgd(w, grad, v, lr, momentum, decay, nesterov):  # type: ignore[no-untyped-def]
    for i in range(w.size):
        g = grad[i] + decay * w[i]
        v[i] = momentum * v[i] + g
        w[i] -= lr * (g + momentum * v[i] if nesterov else v[i])


@compiled()
def _adam(w, grad, m, v, kept, added, rate, second, beta1, rest1, beta2, rest2, eps):  # type: ignore[no-untyped-def]
    for i in range(w.size):
        g = grad[i] + added * w[i]
        a = beta1 * m[i] + rest1 * g
        b = beta2 * v[i] + rest2 * g * g
        m[i], v[i] = a, b
        w[i] = w[i] * kept - rate * a / (np.sqrt(b * second) + eps)
