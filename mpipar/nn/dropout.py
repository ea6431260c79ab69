"""Dropout whose masks are the same on every mesh."""

from __future__ import annotations

from mpipar.errors import UsageError
from mpipar.nn.module import Module
from mpipar.random import Noise
from mpipar.tensor import Tensor, bias_dropout_add, dropout


class Dropout(Module):
    """Zeroes elements with probability p in training; the identity in evaluation. `name` keys the masks."""

    def __init__(self, name: str, p: float) -> None:
        if not 0 <= p < 1:
            raise UsageError(
                f"Dropout {name!r}: p={p}; a probability of at least 0 and less than 1 is wanted"
            )
        self.name, self.p = name, p

    def __call__(self, x: Tensor, noise: Noise | None) -> Tensor:
        noise = self._noise(noise)
        return x if noise is None else dropout(x, self.p, noise, self.name)

    def add(self, x: Tensor, bias: Tensor | None, residual: Tensor, noise: Noise | None) -> Tensor:
        """``residual + self(x + bias, noise)`` in one pass over memory."""
        noise = self._noise(noise)
        return bias_dropout_add(x, bias, residual, 0.0 if noise is None else self.p, noise, self.name)

    def _noise(self, noise: Noise | None) -> Noise | None:
        """None where nothing is dropped."""
        if self.p == 0 or not self.training:
            return None
        if noise is None:
            raise UsageError(
                f"Dropout {self.name!r} in training: pass noise=Noise(seed, step), or call model.eval()"
            )
        return noise
