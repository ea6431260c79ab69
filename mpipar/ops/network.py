"""The operations of networks: softmax, layer norm, embedding, attention, dropout.

B a batch, T positions, S keys, H heads, D channels of a head, C channels, V vocabulary.
"""

from __future__ import annotations

from mpipar.backend import Array
from mpipar.layout import Layout, Misfit, Replicate
from mpipar.layout.layout import Fix
from mpipar.layout.rules import Label, aligned, whole
from mpipar.ops.arithmetic import linear_rule
from mpipar.ops.base import Context, Vjps, op


def softmax_rule(x: Layout, *, dim: int) -> Layout:
    return whole(x, [dim])


@op(softmax_rule)
def softmax(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    y = context.xp.softmax(x, dim)
    return y, (lambda g: context.xp.softmax_vjp(g, y, dim),)


def layer_norm_rule(x: Layout, gain: Layout, bias: Layout) -> Layout:
    """The last dim whole, gain and bias Replicate."""
    free: list[Label] = list(range(x.ndim - 1))
    kept = aligned([([*free, None], x), ([None], gain), ([None], bias)], free, "none")
    return Layout(x.grid, (*kept.cuts, x.cuts[-1]), kept.partial)


@op(layer_norm_rule)
def layer_norm(context: Context, x: Array, gain: Array, bias: Array, *, eps: float) -> tuple[Array, Vjps]:
    y, saved = context.xp.layer_norm(x, gain, bias, eps)
    return y, lambda g: context.xp.layer_norm_vjp(g, x, gain, saved)


def embedding_rule(table: Layout, ids: Layout) -> Layout:
    """A product with onehot(ids), whose vocabulary is cut as the table's: there the result is Partial."""
    for axis in table.cuts[0].axes:
        if axis in ids.cut_dims:
            raise Misfit(
                f"the rows of {{0}} and dim {ids.cut_dims[axis]} of {{1}} are both sharded over axis {axis!r}",
                Fix(1, axis, Replicate()),
            )
    if ids.partial:
        axis = min(ids.partial)
        raise Misfit(f"{{1}} is Partial on axis {axis!r}: ids are no sum", Fix(1, axis, Replicate()))
    free: list[Label] = list(range(ids.ndim))
    one_hot = Layout(ids.grid, (*ids.cuts, table.cuts[0]))
    return aligned([([*free, "v"], one_hot), (["v", "c"], table)], [*free, "c"], "one")


@op(embedding_rule)
def embedding(context: Context, table: Array, ids: Array) -> tuple[Array, Vjps]:
    """(V, C) and (…) → (…, C); a row that lives on another rank is zero here."""
    first, count = context.first(0, 0), table.shape[0]
    y = context.xp.take_rows(table, ids, first)
    return y, (lambda g: context.xp.put_rows(g, ids, first, count), None)


def attention_rule(q: Layout, k: Layout, v: Layout) -> Layout:
    """Batch and heads may be cut; positions and channels are whole."""
    labels: list[Label] = ["b", None, "h", None]
    kept = aligned([(labels, q), (labels, k), (labels, v)], ["b", "h"], "none")
    return Layout(q.grid, (kept.cuts[0], q.cuts[1], kept.cuts[1], v.cuts[3]), kept.partial)


@op(attention_rule)
def attention(
    context: Context, q: Array, k: Array, v: Array, *, scale: float, causal: bool
) -> tuple[Array, Vjps]:
    """softmax(scale·qkᵀ)v: (B, T, H, D), (B, S, H, D), (B, S, H, D) → (B, T, H, D)."""
    xp = context.xp
    out, lse = xp.attention(q, k, v, scale, causal)
    return out, lambda g: xp.attention_vjp(g, q, k, v, out, lse, scale, causal)


@op(linear_rule)
def dropout(context: Context, x: Array, *, key: int, p: float, first_row: int) -> tuple[Array, Vjps]:
    """x times a mask that is a function of the global index: legal on every placement, Partial too."""
    index = context.index(context.out)
    index[0] = index[0] + first_row
    mask = context.xp.keep_mask(key, index, p, x.dtype)
    return x * mask, (lambda g: g * mask,)
