"""Products and sums by labels: ``"btc,cf->btf"``. One or two operands; each is one batch of matrix products."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from mpipar.backend import Array, Backend
from mpipar.layout import Layout
from mpipar.layout.rules import aligned
from mpipar.ops.base import Context, Vjp, Vjps, op


class Equation(NamedTuple):
    """The labels of the operands and of the result, one letter a dim."""

    operands: tuple[str, ...]
    out: str


def parsed(text: str) -> Equation:
    """Raises ValueError with what to write."""
    left, arrow, out = text.replace(" ", "").partition("->")
    if not arrow:
        raise ValueError(f"{text!r} lacks the result: write {text}->… with the labels that stay")
    found = Equation(tuple(left.split(",")), out)
    for labels in (*found.operands, out):
        if not all(label.isalpha() for label in labels):
            raise ValueError(f"{text!r}: labels are letters, one for each dim")
        if len(set(labels)) < len(labels):
            raise ValueError(f"{text!r}: a label comes twice in {labels!r}; a diagonal is not taken")
    unknown = set(out) - set(left)
    if unknown:
        raise ValueError(f"{text!r}: {min(unknown)!r} of the result is in no operand")
    return found


def einsum_rule(*layouts: Layout, equation: Equation) -> Layout:
    """That of any product: what is cut is cut alike, a cut label that is summed leaves Partial."""
    lengths: dict[str, int] = {}
    for labels, x in zip(equation.operands, layouts, strict=True):
        if len(labels) != x.ndim:
            raise ValueError(f"{labels!r} are labels for {len(labels)} dims, {x} has {x.ndim}")
        for label, length in zip(labels, x.shape, strict=True):
            if lengths.setdefault(label, length) != length:
                raise ValueError(f"{label!r} is {lengths[label]} and {length} long")
    return aligned(list(zip(equation.operands, layouts, strict=True)), equation.out, "one")


@op(einsum_rule)
def einsum(context: Context, *xs: Array, equation: Equation) -> tuple[Array, Vjps]:
    xp, out = context.xp, equation.out
    if len(xs) == 1:
        labels, shape = equation.operands[0], xs[0].shape
        return _summed(xp, xs[0], labels, out), (lambda g: _spread(xp, g, out, labels, shape),)
    (x, y), (left, right) = xs, equation.operands

    def gradient(mine: str, shape: tuple[int, ...], other: Array, theirs: str) -> Vjp:
        seen = "".join(label for label in mine if label in out or label in theirs)  # the rest is summed alone
        return lambda g: _spread(xp, _product(xp, g, out, other, theirs, seen), seen, mine, shape)

    vjps = gradient(left, x.shape, y, right), gradient(right, y.shape, x, left)
    return _product(xp, x, left, y, right, out), vjps


def _product(xp: Backend, x: Array, left: str, y: Array, right: str, out: str) -> Array:
    """(batch, M, K) by (batch, K, N), each of several dims, then in the order of `out`."""
    x, left = _lone_summed(xp, x, left, right + out)
    y, right = _lone_summed(xp, y, right, left + out)
    length = dict(zip(left + right, x.shape + y.shape, strict=True))
    batch = "".join(label for label in left if label in right and label in out)
    summed = "".join(label for label in left if label in right and label not in out)
    rows = "".join(label for label in left if label not in right)
    columns = "".join(label for label in right if label not in left)

    def arranged(a: Array, labels: str, *groups: str) -> Array:
        sizes = [prod(length[label] for label in group) for group in groups]
        return _permuted(a, labels, "".join(groups)).reshape(sizes)

    z = xp.matmul(arranged(x, left, batch, rows, summed), arranged(y, right, batch, summed, columns))
    labels = batch + rows + columns
    return _permuted(z.reshape(tuple(length[label] for label in labels)), labels, out)


def _lone_summed(xp: Backend, x: Array, labels: str, others: str) -> tuple[Array, str]:
    """Summed over the labels that nothing else has."""
    kept = "".join(label for label in labels if label in others)
    return _summed(xp, x, labels, kept), kept


def _summed(xp: Backend, x: Array, labels: str, out: str) -> Array:
    dims = [dim for dim, label in enumerate(labels) if label not in out]
    x = xp.as_array(xp.sum(x, dims)) if dims else x
    return _permuted(x, "".join(label for label in labels if label in out), out)


def _spread(xp: Backend, g: Array, labels: str, out: str, shape: tuple[int, ...]) -> Array:
    """The transpose of `_summed`: repeated over the labels that g lacks."""
    g = _permuted(g, labels, "".join(label for label in out if label in labels))
    wide = tuple(n if label in labels else 1 for label, n in zip(out, shape, strict=True))
    return g if wide == shape and labels == out else xp.broadcast_to(g.reshape(wide), shape)


def _permuted(x: Array, labels: str, out: str) -> Array:
    return x if labels == out else x.transpose(tuple(labels.index(label) for label in out))
