"""Loss scaling: float16 has few small numbers, so a loss is multiplied before backward, its gradients divided after.

Micikevicius et al. 2018, section 3.2. The scale is found while training: a gradient that is not finite skips the step
and halves it, many steps without one double it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from mpipar.errors import DivergedError, UsageError
from mpipar.tensor import Tensor


class LossScale:
    """`value` is what the loss is multiplied by. A scale of 1 is none: it never changes and skips no step.

    Decisions are made on the norm of all gradients, which is the same on all ranks, so all ranks decide alike without
    a message of their own.

    >>> scale = LossScale(4.0, double_after=2)
    >>> scale.accepts(1, 5.5, float("inf")), scale.value
    (False, 2.0)
    >>> scale.accepts(2, 5.5, 0.5), scale.accepts(3, 5.5, 0.5), scale.value
    (True, True, 4.0)
    """

    def __init__(self, value: float = 1.0, *, double_after: int = 2000) -> None:
        if not (isfinite(value) and value >= 1 and value == 2 ** (int(value).bit_length() - 1)):
            raise UsageError(f"LossScale({value}): a power of two of at least 1 is wanted, as 65536")
        self.value, self.double_after = float(value), double_after
        self.dynamic = value > 1
        self.good_steps = 0  # since the scale was changed

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the step is to be taken; adapts the scale. `norm` is that of all gradients together.

        Raises DivergedError where the scale would fall below 1: then it is not the scale that overflows.
        """
        if not self.dynamic:
            return True
        self.good_steps += 1
        if not isfinite(norm):
            self._halve(step, loss, norm)
        elif self.good_steps == self.double_after:
            self.value, self.good_steps = 2 * self.value, 0
        return isfinite(norm)

    def _halve(self, step: int, loss: float, norm: float) -> None:
        if self.value == 1:
            raise DivergedError(
                f"step {step}: the gradient norm is {norm} with a loss scale of 1, the loss {loss}: float16 overflows "
                "in the forward pass. Try a lower --lr, or --dtype bfloat16"
            )
        self.value, self.good_steps = self.value / 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values; none where the scale never changes."""
        return {"value": self.value, "good_steps": self.good_steps} if self.dynamic else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not self.dynamic:
            return
        if "value" not in state:
            raise UsageError("load_state_dict: a loss scale is wanted, and the state is of a run without one")
        self.value, self.good_steps = state["value"], state["good_steps"]


def skip_step(parameters: Sequence[Tensor]) -> None:
    """Forgets the gradients of a step that is not taken."""
    for parameter in parameters:
        parameter.clear_grad()
