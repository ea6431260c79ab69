"""What the tape keeps of an operation on 16-bit tensors.

They are computed with in float32, and a vjp holds on to those wide copies. Where the operands as they are stored take
less memory, these are kept instead, and backward makes the vjp again from them: the same arithmetic on the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpipar.backend import Array
from mpipar.ops.base import NO_GRADIENT, Context, Op, Vjps
from mpipar.tensor.changes import kept_arrays


def lightest(
    op: Op, context: Context, operands: Sequence[Array], wanted: Sequence[bool], static: dict[str, Any], vjps: Vjps
) -> Vjps:  # fmt: skip
    """The vjps, or those that are made again where they keep less; not of an operation that communicates."""
    if vjps == NO_GRADIENT or op.communicates:
        return vjps
    stretches = {context.xp.addresses(x) for x in kept_arrays(vjps)}
    if sum(stop - start for start, stop in stretches) <= sum(x.nbytes for x in operands):
        return vjps
    return Again(op, context, tuple(operands), tuple(wanted), static)


@dataclass(frozen=True)
class Again:
    """The gradients of an operation's operands, from the operands themselves; None where none is wanted."""

    op: Op
    context: Context
    operands: tuple[Array, ...]
    wanted: tuple[bool, ...]
    static: dict[str, Any]

    def __call__(self, g: Array) -> tuple[Array | None, ...]:
        wide = [self.context.xp.widen(x) for x in self.operands]
        without_value = {"value": False} if self.op.may_skip_value else {}
        _, vjps = self.op.forward(self.context, *wide, **self.static | without_value)
        if callable(vjps):
            return vjps(g)
        pairs = zip(self.wanted, vjps, strict=True)
        return tuple(vjp(g) if wanted and vjp is not None else None for wanted, vjp in pairs)
