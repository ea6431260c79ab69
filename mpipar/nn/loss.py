"""Cross-entropy over a vocabulary that is cut: the logits are never gathered."""

from __future__ import annotations

from mpipar.backend import Array
from mpipar.comm import Comm
from mpipar.layout import Layout, Misfit, Partial, Replicate
from mpipar.layout.layout import Fix
from mpipar.layout.rules import Label, aligned
from mpipar.ops.base import Context, Vjps, op
from mpipar.tensor import Tensor
from mpipar.tensor.apply import apply


def vocab_parallel_cross_entropy(logits: Tensor, targets: Tensor, axis: str = "tp") -> Tensor:
    """-log softmax(logits)[target] for each row: (…, V), (…) integers → (…). Rows with a target below 0 give 0,
    those with one outside the vocabulary NaN.

    Where the vocabulary is sharded over `axis` the result is Partial there, and this is one of the few operations
    that communicate: two allreduces of one number a row forward, none backward. Where it is whole, none.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross-entropy: logits {logits.layout} and targets {targets.layout}: one target a row"
        )
    if targets.is_floating:
        raise TypeError(f"cross-entropy: targets {targets.layout} are {targets.dtype}; integers are wanted")
    comm = logits.mesh[axis] if axis in logits.layout.cuts[-1].axes else None
    return apply(_cross_entropy, logits, targets, axis=axis, comm=comm)


def _rule(logits: Layout, targets: Layout, *, axis: str) -> Layout:
    """Rows aligned, nothing owed, the vocabulary cut by `axis` or by nothing."""
    for other in logits.cuts[-1].axes:
        if other != axis:
            raise Misfit(
                f"the vocabulary of {{0}} is sharded over axis {other!r}; the call names axis={axis!r}",
                Fix(0, other, Replicate()),
            )
    free: list[Label] = list(range(targets.ndim))
    one_hot = Layout(targets.grid, (*targets.cuts, logits.cuts[-1]), targets.partial)
    if targets.placement(axis) != Replicate() and logits.cuts[-1].axes:
        raise Misfit(
            f"{{1}} must be whole on axis {axis!r}, which cuts the vocabulary", Fix(1, axis, Replicate())
        )
    result = aligned([([*free, "v"], logits), ([*free, "v"], one_hot)], free, "none")
    return result.placed(axis, Partial()) if logits.cuts[-1].axes else result


@op(_rule)
def _cross_entropy(
    context: Context, logits: Array, targets: Array, *, axis: str, comm: Comm | None
) -> tuple[Array, Vjps]:
    """log Σ exp(z) on the first rank, minus the picked logit where it lives."""
    xp = context.xp
    t = targets.reshape(-1)
    z = logits.reshape(t.size, logits.shape[-1])  # (N, V here)
    first = context.first(0, context.layouts[0].ndim - 1)
    top = xp.max(z, (1,))  # not differentiated: the result does not depend on it
    top = top if comm is None else comm.allreduce(top, "max")
    total = xp.exp_sum(z, top)
    lse = xp.log(total if comm is None else comm.allreduce(total)) + top
    known = t < context.layouts[0].shape[-1]
    kept = xp.where(known, xp.cast(t >= 0, z.dtype), float("nan"))
    owed = lse if comm is None or comm.rank == 0 else 0
    loss = (owed - xp.pick(z, t, first)) * kept

    def grad_logits(g: Array) -> Array:
        return xp.softmax_minus_hot(z, lse, t, first, g.reshape(-1) * kept).reshape(logits.shape)

    return loss.reshape(targets.shape), (grad_logits, None)
