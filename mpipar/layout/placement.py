"""What the ranks of one mesh axis hold of a tensor, and what they hold of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank of the axis holds the same values, bit for bit."""

    def __repr__(self) -> str:
        return "Replicate()"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank of the axis holds a term of a sum that is still owed."""

    def __repr__(self) -> str:
        return "Partial()"


@dataclass(frozen=True, slots=True)
class Shard:
    """The ranks of the axis hold consecutive pieces of dimension `dim`, uneven where it does not divide."""

    dim: int

    def __repr__(self) -> str:
        return f"Shard({self.dim})"


Placement: TypeAlias = Replicate | Partial | Shard

_DUALS: dict[type[Placement], Placement] = {Replicate: Partial(), Partial: Replicate()}


def dual(placement: Placement) -> Placement:
    """The placement of the gradient: Replicate ↔ Partial, Shard ↔ Shard.

    >>> dual(Replicate()), dual(Partial()), dual(Shard(1))
    (Partial(), Replicate(), Shard(1))
    """
    return _DUALS.get(type(placement), placement)
