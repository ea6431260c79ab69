"""The backend that tests/backend compares with formulas: that of the device on which the suite runs.

On the CPU it is NumPy's itself. On a card it takes and returns host arrays, so that a test reads the same: each call
copies its arrays over, in their order of memory, and its results back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipar import backend
from mpipar.backend import Backend
from mpipar.job.device import choose

IN_PLACE = (
    "add_into",
    "add_product",
    "add_rows",
    "copy_scaled",
    "biased_gelu_vjp_into",
    "scale_into",
    "fill",
    "copy_into",
    "exp_rows",
    "subtract_at",
    "sgd",
    "adam",
)


class Lifted:
    """A backend on host arrays."""

    def __init__(self, xp: Backend) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._xp, name)
        return function if name in ("name", "dtype", "from_host") else self._called(name, function)

    def _called(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            there = [self._there(x) for x in arguments]
            found = function(*there, **named)
            same = [host for host, x in zip(arguments, there, strict=True) if found is x and x is not host]
            if same:
                return same[0]
            result = self._here(found)
            for host, moved in zip(arguments if name in IN_PLACE else (), there, strict=False):
                if isinstance(host, np.ndarray):
                    host[...] = self._here(moved)
            return result

        return call

    def _there(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(self._there, x))
        if not isinstance(x, (np.ndarray, np.generic)):
            return x
        order = sorted(range(x.ndim), key=lambda dim: -abs(x.strides[dim]))
        return self._xp.from_host(x.transpose(order)).transpose(tuple(map(int, np.argsort(order))))

    def _here(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(self._here, x))
        return self._xp.to_host(x) if hasattr(x, "shape") and not isinstance(x, np.ndarray) else x


raw: Any = choose(None).xp
xp: Any = raw if raw is backend.cpu() else Lifted(raw)
