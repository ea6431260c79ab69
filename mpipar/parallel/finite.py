"""Stopping a run whose numbers are no longer numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from mpipar.comm import Comm
from mpipar.errors import DivergedError
from mpipar.tensor import Tensor


def stop_unless_finite(
    step: int, loss: float, norm: float, parameters: Sequence[Tensor], ranks: Comm | None = None
) -> None:  # fmt: skip
    """Raises DivergedError, on all ranks, where the loss or the norm of the gradients is not finite.

    `loss` and `norm` are the same on all of `ranks` (default: those of the model). The message names the step, the
    ranks and a weight to look at.
    """
    if isfinite(loss) and isfinite(norm):
        return
    ranks = parameters[0].mesh.whole.world if ranks is None else ranks
    found = ranks.allgather_object([p.name for p in parameters if not _is_finite(p)])
    where = [f"rank {rank} (first in {names[0]!r})" for rank, names in enumerate(found) if names]
    raise DivergedError(
        f"step {step}: the loss is {loss}, the gradient norm {norm}. Gradients that are not finite: "
        f"{', '.join(where) or 'on no rank'}. Try a lower --lr, a longer --warmup, or --clip"
    )


def _is_finite(parameter: Tensor) -> bool:
    grad = parameter.grad
    return grad is None or isfinite(parameter.mesh.xp.item(parameter.mesh.xp.square_sum(grad.local)))
