"""The feed-forward half of a block as one operation: two products and what is between them, in fewer passes.

N rows, C channels, F hidden units, D channels of the result.
"""

from __future__ import annotations

from math import prod

from mpipar.backend import Array
from mpipar.layout import Layout
from mpipar.layout.rules import Label, Operand, aligned, broadcast
from mpipar.ops.base import Context, Gradient, Vjps, op
from mpipar.ops.product import unread
from mpipar.ops.unmade import Product


def biased_gelu_rule(x: Layout, bias: Layout) -> Layout:
    """Any cut, nothing owed."""
    return broadcast([x, bias], "none")


@op(biased_gelu_rule)
def biased_gelu(context: Context, x: Array, bias: Array) -> tuple[Array, Vjps]:
    """gelu(x + bias): (…, F), (F,) → (…, F)."""
    xp, rows = context.xp, x.reshape(prod(x.shape[:-1]), x.shape[-1])

    def both(g: Array) -> tuple[Array, Array]:
        g = xp.copy(g).reshape(rows.shape)
        g_bias = xp.biased_gelu_vjp_into(g, rows, bias)
        return g.reshape(x.shape), g_bias

    return xp.biased_gelu(rows, bias).reshape(x.shape), both


def feed_forward_rule(x: Layout, up: Layout, bias: Layout, down: Layout) -> Layout:
    """Rows may be cut, hidden units too: the result is Partial there. Linear in `down` alone, which may be Partial."""
    rows: list[Label] = list(range(x.ndim - 1))
    operands: list[Operand] = [([*rows, None], x), ([None, "f"], up), (["f"], bias), (["f", "d"], down)]
    return aligned(operands, [*rows, "d"], "last")


@op(feed_forward_rule)
def feed_forward(
    context: Context, x: Array, up: Array, bias: Array, down: Array, *, value: bool = True
) -> tuple[Array, Vjps]:
    """gelu(x·up + bias)·down: (…, C), (C, F), (F,), (F, D) → (…, D). Without `value` only the vjps are right."""
    xp, rows = context.xp, x.reshape(prod(x.shape[:-1]), x.shape[-1])
    product = xp.matmul(rows, up)  # (N, F), without the bias
    hidden = xp.biased_gelu(product, bias)
    vjps = feed_forward_vjps(context, x.shape, (rows, up, bias, down), product, hidden)
    if not value:
        return unread(context, x), vjps
    out = context.room(context.out, (rows.shape[0], down.shape[1]), hidden, down)
    return xp.matmul(hidden, down, out=out).reshape(context.out_shape), vjps


def feed_forward_vjps(
    context: Context, shape: tuple[int, ...], operands: tuple[Array, ...], product: Array, hidden: Array
) -> Vjps:
    """The products of weights' gradients need no weight: they may be made later, when ZeRO 3 has given these away."""
    xp, (rows, up, bias, down) = context.xp, operands

    def vjp(g: Array) -> tuple[Gradient | None, ...]:
        g = g.reshape(rows.shape[0], down.shape[1])
        inner = xp.matmul(g, down.T)  # of what GELU gave, changed in place to that of the product
        g_bias = xp.biased_gelu_vjp_into(inner, product, bias)
        g_x = xp.matmul(inner, up.T, out=context.room(context.layouts[0].dual, rows.shape, inner, up))
        g_up, g_down = Product(xp, rows.T, inner, up.shape), Product(xp, hidden.T, g, down.shape)
        return g_x.reshape(shape), g_up, g_bias, g_down

    return vjp
