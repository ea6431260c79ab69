"""Products that sum: `contract` with a weight, `matmul` of batches."""

from __future__ import annotations

from math import prod

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.layout.rules import Label, aligned, broadcast_shape
from mpipar.ops.base import Context, Vjps, op


def contract_rule(x: Layout, w: Layout, *, n: int, transposed: bool) -> Layout:
    """x's last n dims are summed with w's first n (transposed: last n)."""
    free_x: list[Label] = [("x", dim) for dim in range(x.ndim - n)]
    free_w: list[Label] = [("w", dim) for dim in range(w.ndim - n)]
    summed: list[Label] = [("sum", dim) for dim in range(n)]
    labels_w = [*free_w, *summed] if transposed else [*summed, *free_w]
    return aligned([([*free_x, *summed], x), (labels_w, w)], [*free_x, *free_w], "one")


@op(contract_rule)
def contract(context: Context, x: Array, w: Array, *, n: int, transposed: bool) -> tuple[Array, Vjps]:
    """(…, K…) with (K…, N…), or (N…, K…) where transposed → (…, N…), as one matrix product."""
    xp = context.xp
    rows, summed = prod(x.shape[: x.ndim - n]), prod(x.shape[x.ndim - n :])
    columns = prod(w.shape[: w.ndim - n] if transposed else w.shape[n:])
    x2 = x.reshape(rows, summed)
    w2 = w.reshape(columns, summed).T if transposed else w.reshape(summed, columns)

    def grad_x(g: Array) -> Array:
        return xp.matmul(g.reshape(rows, columns), w2.T).reshape(x.shape)

    def grad_w(g: Array) -> Array:
        g2 = g.reshape(rows, columns)
        product = xp.matmul(g2.T, x2) if transposed else xp.matmul(x2.T, g2)
        return product.reshape(w.shape)

    return xp.matmul(x2, w2).reshape(context.out_shape), (grad_x, grad_w)


def matmul_rule(x: Layout, y: Layout) -> Layout:
    """(…, M, K) by (…, K, N); the dims before are broadcast."""
    batch = broadcast_shape([x.shape[:-2], y.shape[:-2]])

    def labels(shape: tuple[int, ...]) -> list[Label]:
        first = len(batch) - len(shape)
        return [first + dim if shape[dim] == batch[first + dim] else None for dim in range(len(shape))]

    left = [*labels(x.shape[:-2]), "m", "k"]
    right = [*labels(y.shape[:-2]), "k", "n"]
    return aligned([(left, x), (right, y)], [*range(len(batch)), "m", "n"], "one")


@op(matmul_rule)
def matmul(context: Context, x: Array, y: Array) -> tuple[Array, Vjps]:
    xp = context.xp

    def unbatched(operand: int, g: Array) -> Array:
        shape, wide = context.layouts[operand].shape[:-2], context.out.shape[:-2]
        extra = len(wide) - len(shape)
        g = xp.sum(g, range(extra)) if extra else g
        repeated = [dim for dim, length in enumerate(shape) if length == 1 and wide[dim + extra] != 1]
        return xp.sum(g, repeated, keepdims=True) if repeated else g

    return xp.matmul(x, y), (
        lambda g: unbatched(0, xp.matmul(g, y.swapaxes(-1, -2))),
        lambda g: unbatched(1, xp.matmul(x.swapaxes(-1, -2), g)),
    )
