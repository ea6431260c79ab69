"""The operations of networks: softmax, norms, embedding, rotary positions, attention, gates, dropout.

B a batch, T positions, S keys, H heads, K heads of keys, D channels of a head, C channels, F hidden units,
V vocabulary.
"""

from __future__ import annotations

from functools import reduce

from mpipar.backend import Array
from mpipar.layout import Cut, Layout, Misfit, Replicate
from mpipar.layout.layout import Fix
from mpipar.layout.rules import Label, aligned, broadcast, repeated, whole
from mpipar.ops.arithmetic import linear_rule
from mpipar.ops.base import Context, Gradient, Vjps, op
from mpipar.ops.unmade import Fresh, Rows, Summed


def softmax_rule(x: Layout, *, dim: int) -> Layout:
    return whole(x, [dim])


@op(softmax_rule)
def softmax(context: Context, x: Array, *, dim: int) -> tuple[Array, Vjps]:
    y = context.xp.softmax(x, dim)
    return y, (lambda g: context.xp.softmax_vjp(g, y, dim),)


def norm_rule(x: Layout, *weights: Layout) -> Layout:
    """The last dim whole, gain and bias Replicate."""
    free: list[Label] = list(range(x.ndim - 1))
    kept = aligned([([*free, None], x), *(([None], weight) for weight in weights)], free, "none")
    return Layout(x.grid, (*kept.cuts, x.cuts[-1]), kept.partial)


@op(norm_rule)
def layer_norm(context: Context, x: Array, gain: Array, bias: Array, *, eps: float) -> tuple[Array, Vjps]:
    xp = context.xp
    y, saved = xp.layer_norm(x, gain, bias, eps)

    def vjp(g: Array) -> tuple[Gradient, ...]:
        g_x, g_gain, g_bias = xp.layer_norm_vjp(g, x, gain, saved)
        return Fresh(xp, g_x), g_gain, g_bias

    return y, vjp


@op(norm_rule)
def rms_norm(context: Context, x: Array, gain: Array, *, eps: float) -> tuple[Array, Vjps]:
    xp = context.xp
    y, saved = xp.rms_norm(x, gain, eps)

    def vjp(g: Array) -> tuple[Gradient, ...]:
        g_x, g_gain = xp.rms_norm_vjp(g, x, gain, saved)
        return Fresh(xp, g_x), g_gain

    return y, vjp


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
    xp, first, shape = context.xp, context.first(0, 0), table.shape
    return xp.take_rows(table, ids, first), (lambda g: Rows(xp, g, ids, first, shape), None)


def rotary_rule(x: Layout) -> Layout:
    """Channels whole; positions may be cut. Linear, so a sum may be owed."""
    return whole(x, [x.ndim - 1], linear=True)


@op(rotary_rule)
def rotary(context: Context, x: Array, *, base: float) -> tuple[Array, Vjps]:
    """(…, T, H, D), the position of a row being its global index in T. The transpose of a turn is the turn back."""
    positions = context.index(context.out)[-3]
    return context.xp.rotary(x, positions, base), (lambda g: context.xp.rotary(g, -positions, base),)


def attention_rule(q: Layout, k: Layout, v: Layout) -> Layout:
    """Batch and heads may be cut; positions and channels are whole. Fewer heads of keys count as repeated."""
    labels: list[Label] = ["b", None, "h", None]
    group = q.shape[2] // (k.shape[2] or 1)
    served = [q, repeated(k, 2, group), repeated(v, 2, group)]
    if group > 1:
        _check_groups(q, k, [x.cuts[2] for x in served])
    kept = aligned([(labels, x) for x in served], ["b", "h"], "none")
    return Layout(q.grid, (kept.cuts[0], q.cuts[1], kept.cuts[1], v.cuts[3]), kept.partial)


def _check_groups(q: Layout, k: Layout, heads: list[Cut]) -> None:
    """Raises Misfit where the ranks of an axis cannot have both their heads of q and the keys that these need."""
    cut = [operand for operand, found in enumerate(heads) if found.axes]
    if not cut or all(found == heads[0] for found in heads):
        return
    axes = heads[cut[0]].axes
    mine, theirs = (
        reduce(lambda x, axis: x.split(axis, q.grid.size(axis)), axes, Cut((), (0, x.shape[2])))
        for x in (q, k)
    )
    group = q.shape[2] // k.shape[2]
    if mine.offsets != tuple(group * offset for offset in theirs.offsets):
        raise Misfit(
            f"{q.shape[2]} heads and {k.shape[2]} heads of keys, {group} to each, are not cut alike over axis "
            f"{axes[-1]!r}: repeat_interleave(keys, {group}, dim=2) makes them as many",
            *(Fix(operand, heads[operand].axes[-1], Replicate()) for operand in cut),
        )


@op(attention_rule)
def attention(
    context: Context, q: Array, k: Array, v: Array, *, scale: float, causal: bool
) -> tuple[Array, Vjps]:
    """softmax(scale·qkᵀ)v: (B, T, H, D), (B, S, K, D), (B, S, K, D) → (B, T, H, D)."""
    xp = context.xp
    out, lse = xp.attention(q, k, v, scale, causal)
    return out, lambda g: xp.attention_vjp(g, q, k, v, out, lse, scale, causal)


def self_attention_rule(qkv: Layout) -> Layout:
    """Of queries, keys and values in one array (B, T, 3, H, D): batch and heads may be cut."""
    kept = whole(qkv, [1, 2, 4])
    return Layout(qkv.grid, (*kept.cuts[:2], *kept.cuts[3:]), kept.partial)


@op(self_attention_rule)
def self_attention(context: Context, qkv: Array, *, scale: float, causal: bool) -> tuple[Array, Vjps]:
    """`attention` of qkv[:, :, 0], 1 and 2: (B, T, 3, H, D) → (B, T, H, D). Gradients are written in one array, too."""
    xp = context.xp
    q, k, v = (qkv[:, :, part] for part in range(3))
    out, lse = xp.attention(q, k, v, scale, causal)

    def vjp(g: Array) -> Array:
        gradient = xp.empty(qkv.shape, qkv.dtype)
        into = gradient[:, :, 0], gradient[:, :, 1], gradient[:, :, 2]
        xp.attention_vjp(g, q, k, v, out, lse, scale, causal, into)
        return gradient

    return out, (vjp,)


def swiglu_rule(x: Layout) -> Layout:
    """The dim of two whole, nothing owed; the hidden units may be cut."""
    kept = whole(x, [x.ndim - 2])
    return Layout(x.grid, (*kept.cuts[:-2], kept.cuts[-1]), kept.partial)


@op(swiglu_rule)
def swiglu(context: Context, x: Array) -> tuple[Array, Vjps]:
    """(…, 2, F) → silu(first)·second (…, F)."""
    return context.xp.swiglu(x), (lambda g: context.xp.swiglu_vjp(g, x),)


@op(linear_rule)
def dropout(context: Context, x: Array, *, key: int, p: float, first_row: int) -> tuple[Array, Vjps]:
    """x times a mask that is a function of the global index: legal on every placement, Partial too."""
    mask = drawn(context, key, p, first_row, x)
    return x * mask, (lambda g: g * mask,)


def drawn(context: Context, key: int, p: float, first_row: int, x: Array) -> Array:
    """The mask of dropout for a result that is like x: 0, or 1 / (1 - p)."""
    index = context.index(context.out)
    index[0] = index[0] + first_row
    return context.xp.keep_mask(key, index, p, x.dtype)


def bias_dropout_add_rule(x: Layout, residual: Layout, *bias: Layout) -> Layout:
    """Any cut, nothing owed."""
    return broadcast([x, residual, *bias], "none")


@op(bias_dropout_add_rule)
def bias_dropout_add(
    context: Context, x: Array, residual: Array, *bias: Array, key: int, p: float, first_row: int
) -> tuple[Array, Vjps]:
    """residual + dropout(x + bias): (…, C), (…, C), (C,) if at all → (…, C)."""
    xp, is_biased = context.xp, bool(bias)
    mask = drawn(context, key, p, first_row, x) if p else None

    def vjp(g: Array) -> tuple[Gradient, ...]:
        inner = g if mask is None else g * mask
        return (inner, g, Summed(xp, inner)) if is_biased else (inner, g)

    return xp.bias_dropout_add(x, bias[0] if bias else None, mask, residual), vjp
