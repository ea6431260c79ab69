"""Gradients that are not made yet: what is wanted of them is written, or added, to where it is to stay.

A vjp may return one in the place of an array. A weight's gradient is as large as the weight, and the leaf has a buffer
for it: a product that writes there saves a copy, and the memory of it. Whoever wants an array says `made`. What it is
made of is kept until then, so nobody keeps one for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpipar.backend import Array, Backend


class Unmade:
    """Abstract. `out` is a contiguous array of this shape and dtype."""

    __slots__ = ()
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        """None where it is known when it is made."""
        raise NotImplementedError

    def write_to(self, out: Array) -> None:
        """Whatever was in `out` before."""
        raise NotImplementedError

    def add_to(self, out: Array) -> None:
        raise NotImplementedError

    def made(self) -> Array:
        """An array of the caller's own."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Product(Unmade):
    """a·b, (N, K) by (K, M), in another shape."""

    xp: Backend
    a: Array
    b: Array
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        return self.a.dtype if self.a.dtype == self.b.dtype else None

    def write_to(self, out: Array) -> None:
        self.xp.matmul(self.a, self.b, out=self._matrix(out))

    def add_to(self, out: Array) -> None:
        self.xp.add_product(self._matrix(out), self.a, self.b)

    def made(self) -> Array:
        return self.xp.matmul(self.a, self.b).reshape(self.shape)

    def _matrix(self, out: Array) -> Array:
        return out.reshape(self.a.shape[0], self.b.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Fresh(Unmade):
    """A gradient that is made, in an array that nobody else has: a sum with another may be made in it."""

    xp: Backend
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def write_to(self, out: Array) -> None:
        self.xp.copy_into(out, self.array)

    def add_to(self, out: Array) -> None:
        self.xp.add_into(out, self.array)

    def made(self) -> Array:
        return self.array


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Unmade):
    """Row i of g (…, C) at rows[i] - first, those of one place summed: (V, C). Few of the rows are touched."""

    xp: Backend
    g: Array
    rows: Array
    first: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        return self.g.dtype

    def write_to(self, out: Array) -> None:
        self.xp.fill(out, 0)
        self.xp.add_rows(out, self.g, self.rows, self.first)

    def add_to(self, out: Array) -> None:
        self.xp.add_rows(out, self.g, self.rows, self.first)

    def made(self) -> Array:
        return self.xp.put_rows(self.g, self.rows, self.first, self.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(Unmade):
    """x times a number (0-d)."""

    xp: Backend
    x: Array
    factor: Array

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.x.shape)

    @property
    def dtype(self) -> Any:
        return self.x.dtype if self.x.dtype == self.factor.dtype else None

    def write_to(self, out: Array) -> None:
        self.xp.copy_scaled(out, self.x, self.factor)

    def add_to(self, out: Array) -> None:
        self.xp.add_into(out, self.made())

    def made(self) -> Array:
        return self.x * self.factor


@dataclass(frozen=True, slots=True, eq=False)
class Summed(Unmade):
    """The rows of x (…, C), summed: (C,)."""

    xp: Backend
    x: Array

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.x.shape[-1:])

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def write_to(self, out: Array) -> None:
        self.xp.copy_into(out, self.made())

    def add_to(self, out: Array) -> None:
        self.xp.add_into(out, self.made())

    def made(self) -> Array:
        return self.xp.sum(self.x, range(self.x.ndim - 1))
