"""The head and its loss in one: neither logits nor their gradient are ever whole.

N rows, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

from mpipar.backend import Array, Backend
from mpipar.comm import Comm
from mpipar.layout import Layout, Misfit, Partial, Replicate
from mpipar.layout.layout import Fix
from mpipar.layout.rules import Label, aligned
from mpipar.ops.base import Context, Vjps, op
from mpipar.ops.unmade import Scaled
from mpipar.tensor import Tensor
from mpipar.tensor.apply import apply
from mpipar.tensor.tape import is_recording

LOGITS, ROWS = 1 << 22, 256  # that are made at a time: about so many numbers, but of as many rows
FAR = 60.0  # that the log of a row's sum lies above its largest logit here, at most: more leaves less than e^-60 of 1


def vocab_parallel_linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, *, transposed: bool = False, axis: str = "tp"
) -> Tensor:
    """The sum over all rows of -log softmax(x·weight)[target]: (…, C), (C, V), (…) integers → ().

    `transposed`: the weight is (V, C), as that of an embedding. Where the vocabulary is sharded over `axis` the result
    is Partial there. What `vocab_parallel_cross_entropy(x.contract(weight), targets).sum()` gives, in less time and
    memory: rows are worked off block by block, loss and gradients at once, as the first derivative is known
    up to a factor before backward. One allgather of two numbers a row in each block where the vocabulary is cut, no
    communication where it is whole, and none in backward. Rows with a target below 0 count nothing, one outside the
    vocabulary makes the sum NaN. 16-bit operands are widened: the sum is float32.
    """
    if x.shape[:-1] != targets.shape:
        raise ValueError(f"cross-entropy: x {x.layout} and targets {targets.layout}: one target a row")
    if targets.is_floating:
        raise TypeError(f"cross-entropy: targets {targets.layout} are {targets.dtype}; integers are wanted")
    words = 0 if transposed else 1
    if weight.ndim != 2 or weight.shape[1 - words] != x.shape[-1]:
        raise ValueError(f"cross-entropy: x {x.layout} by a weight {weight.layout}: their widths differ")
    if (
        x.is_floating and x.dtype.itemsize == 2
    ):  # a sum over thousands of rows has more digits than 16 bits hold
        x, weight = x.astype("float32"), weight.astype("float32")
    is_cut = axis in weight.layout.cuts[words].axes and x.mesh.shape[axis] > 1
    comm = x.mesh[axis] if is_cut else None
    return apply(
        _linear_cross_entropy,
        x,
        weight,
        targets,
        axis=axis,
        transposed=transposed,
        comm=comm,
        wanted=is_recording(),
    )


def _rule(x: Layout, weight: Layout, targets: Layout, *, axis: str, transposed: bool) -> Layout:
    """Rows aligned, widths whole, nothing owed, the vocabulary cut by `axis` or by nothing; rows and words summed."""
    words = weight.cuts[0 if transposed else 1]
    for other in words.axes:
        if other != axis:
            raise Misfit(
                f"the vocabulary of {{1}} is sharded over axis {other!r}; the call names axis={axis!r}",
                Fix(1, other, Replicate()),
            )
    if words.axes and targets.placement(axis) != Replicate():
        raise Misfit(
            f"{{2}} must be whole on axis {axis!r}, which cuts the vocabulary", Fix(2, axis, Replicate())
        )
    rows: list[Label] = list(range(targets.ndim))
    names: list[Label] = ["v", None] if transposed else [None, "v"]
    kept = aligned([([*rows, None], x), (names, weight), (rows, targets)], rows, "none")
    summed = Layout(x.grid, (), frozenset(kept.cut_dims))
    return summed.placed(axis, Partial()) if words.axes else summed


@op(_rule)
def _linear_cross_entropy(
    context: Context, x: Array, weight: Array, targets: Array, *, axis: str, transposed: bool, comm: Comm | None,
    wanted: bool,
) -> tuple[Array, Vjps]:  # fmt: skip
    """`wanted`: whether there will be a backward, for which the gradients of a loss of 1 are kept.

    Probabilities are exponentials z times a factor of their row. The factor goes to the rows of x and of its gradient,
    which are fewer numbers than the logits, and 1 is subtracted from the target's as 1 / factor from z.
    """
    xp, t = context.xp, targets.reshape(-1)
    rows, w = x.reshape(t.size, x.shape[-1]), weight.T if transposed else weight  # (N, C), (C, V here)
    words = 0 if transposed else 1
    first, vocabulary = context.first(1, words), context.layouts[1].shape[words]
    kept = xp.where(t < vocabulary, xp.cast(t >= 0, rows.dtype), float("nan"))
    grad_rows = xp.empty(rows.shape, rows.dtype) if wanted else rows
    grad_weight = (xp.empty if t.size else xp.zeros)(weight.shape, weight.dtype) if wanted else weight
    losses = []
    for part in _blocks(t.size, vocabulary // (1 if comm is None else comm.size)):
        z = xp.matmul(rows[part], w)  # (n, V here)
        picked = xp.pick(z, t[part], first)
        top, total = xp.exp_rows(z)
        lse = _log_sum_exp(xp, top, total, comm)
        owed = lse if comm is None or comm.rank == 0 else 0
        losses.append((owed - picked) * kept[part])
        if wanted:
            above = xp.minimum(lse - top, FAR)
            share = (kept[part] * xp.exp(-above)).reshape(-1, 1)  # softmax(logits) · kept is z · share
            xp.subtract_at(z, t[part], first, xp.exp(above))
            xp.scale_into(xp.matmul(z, w.T, out=grad_rows[part]), share)
            scaled = rows[part] * share
            left, right = (z.T, scaled) if transposed else (scaled.T, z)
            if part.start:
                xp.add_product(grad_weight, left, right)
            else:
                xp.matmul(left, right, out=grad_weight)
        del z  # one block at a time: not beside the next
    loss = xp.as_array(xp.sum(xp.concatenate(losses, 0)) if losses else xp.zeros((), rows.dtype))
    return loss, (lambda g: (grad_rows * g).reshape(x.shape), lambda g: Scaled(xp, grad_weight, g), None)


def _log_sum_exp(xp: Backend, top: Array, total: Array, comm: Comm | None) -> Array:
    """log Σ exp of each row over the whole vocabulary, from the largest logit here and the sum relative to it."""
    if comm is not None:
        both = comm.allgather(xp.concatenate([top, total], 0).reshape(1, 2, top.size), sizes=[1] * comm.size)
        tops, totals = both[:, 0], both[:, 1]  # (ranks, n)
        top = xp.max(tops, (0,))
        total = xp.sum(totals * xp.exp(tops - top), (0,))
    return xp.log(total) + top


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(ROWS, LOGITS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
