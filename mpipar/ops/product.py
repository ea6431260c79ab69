"""Products that sum: `contract` with a weight, `matmul` of batches."""

from __future__ import annotations

from math import prod

from mpipar.backend import Array
from mpipar.layout import Layout, Misfit
from mpipar.layout.layout import Fix
from mpipar.layout.rules import Label, aligned, broadcast, broadcast_shape
from mpipar.ops.base import Context, Vjp, Vjps, op, unbroadcast
from mpipar.ops.unmade import Product


def contract_rule(x: Layout, w: Layout, *, n: int, transposed: bool) -> Layout:
    """x's last n dims are summed with w's first n (transposed: last n)."""
    free_x: list[Label] = [("x", dim) for dim in range(x.ndim - n)]
    free_w: list[Label] = [("w", dim) for dim in range(w.ndim - n)]
    summed: list[Label] = [("sum", dim) for dim in range(n)]
    labels_w = [*free_w, *summed] if transposed else [*summed, *free_w]
    return aligned([([*free_x, *summed], x), (labels_w, w)], [*free_x, *free_w], "one")


@op(contract_rule)
def contract(
    context: Context, x: Array, w: Array, *, n: int, transposed: bool, value: bool = True
) -> tuple[Array, Vjps]:
    """(…, K…) with (K…, N…), or (N…, K…) where transposed → (…, N…), as one matrix product.

    Without `value` only the vjps are right: the product, which nobody will read, is not computed (nn/recompute.py).
    """
    xp, (x2, w2) = context.xp, matrices(x, w, n, transposed)
    vjps = contract_vjps(context, x, w, x2, w2, transposed)
    if not value:
        return unread(context, x), vjps
    out = context.room(context.out, (x2.shape[0], w2.shape[1]), x2, w2)
    return xp.matmul(x2, w2, out=out).reshape(context.out_shape), vjps


def unread(context: Context, x: Array) -> Array:
    """In the place of a result that nobody will read: one zero, of the dtype of x."""
    return context.xp.broadcast_to(context.xp.zeros((), x.dtype), context.out_shape)


def matrices(x: Array, w: Array, n: int, transposed: bool) -> tuple[Array, Array]:
    """Both operands as matrices, (rows, summed) and (summed, columns)."""
    rows, summed = prod(x.shape[: x.ndim - n]), prod(x.shape[x.ndim - n :])
    columns = prod(w.shape[: w.ndim - n] if transposed else w.shape[n:])
    w2 = w.reshape(columns, summed).T if transposed else w.reshape(summed, columns)
    return x.reshape(rows, summed), w2


def contract_vjps(
    context: Context, x: Array, w: Array, x2: Array, w2: Array, transposed: bool
) -> tuple[Vjp, Vjp]:
    xp, shape = context.xp, (x2.shape[0], w2.shape[1])

    def grad_x(g: Array) -> Array:
        out = context.room(context.layouts[0].dual, x2.shape, g, w2)
        return xp.matmul(g.reshape(shape), w2.T, out=out).reshape(x.shape)

    def grad_w(g: Array) -> Product:
        g2 = g.reshape(shape)
        return Product(xp, g2.T, x2, w.shape) if transposed else Product(xp, x2.T, g2, w.shape)

    return grad_x, grad_w


def affine_rule(x: Layout, w: Layout, bias: Layout, *, n: int, transposed: bool) -> Layout:
    """A product and then a sum: a bias has no place on a product that is Partial."""
    product = contract_rule(x, w, n=n, transposed=transposed)
    try:
        return broadcast([product, bias], "all")
    except Misfit as misfit:
        fixes = [
            Fix(2, fix.axis, fix.to) for fix in misfit.fixes if isinstance(fix, Fix) and fix.operand == 1
        ]
        raise Misfit(misfit.reason.format(f"the product {product}", "{2}"), *fixes) from None


@op(affine_rule)
def affine(
    context: Context, x: Array, w: Array, bias: Array, *, n: int, transposed: bool
) -> tuple[Array, Vjps]:
    """`contract` and a bias (N…) in one pass over the result."""
    xp, (x2, w2) = context.xp, matrices(x, w, n, transposed)
    y = xp.affine(x2, w2, bias.reshape(-1)).reshape(context.out_shape)
    return y, (*contract_vjps(context, x, w, x2, w2, transposed), lambda g: unbroadcast(context, 2, g))


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
