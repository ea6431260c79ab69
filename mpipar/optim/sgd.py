"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpipar.errors import UsageError
from mpipar.optim.common import (
    Decays,
    as_tensors,
    check_synced,
    checked,
    copy_state,
    decays,
    finish,
    updates,
    zeros_as_gradient,
)
from mpipar.optim.masters import Masters
from mpipar.tensor import Tensor


class SGD:
    """w ← w - lr·v with v ← momentum·v + g; Nesterov: g + momentum·v instead of v. Sutskever et al. 2013.

    `weight_decay`·w is added to g for the parameters for which `decays` is true. `lr` may be set between steps.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, *, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float = 0.0, decays: Decays = decays,
    ) -> None:  # fmt: skip
        if nesterov and not momentum:
            raise UsageError("SGD(nesterov=True) needs a momentum above 0")
        self.parameters = checked(parameters)
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.masters = Masters(self.parameters)
        self._decay = {p.name: weight_decay if decays(p) else 0.0 for p in self.parameters}
        moving = self.parameters if momentum else []
        self.velocity = {p.name: zeros_as_gradient(p) for p in moving}  # with the layout of the gradient

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        check_synced(self.parameters)
        for p, mine, grad in updates(self.parameters, self.masters):
            velocity, decay = self.velocity.get(p.name), self._decay[p.name]
            p.mesh.xp.sgd(mine, grad, velocity, self.lr, self.momentum, self.nesterov, decay)
        finish(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """Velocities and master weights by name, the arrays themselves; and the hyper-parameters, to be read."""
        moving = [p for p in self.parameters if p.name in self.velocity]
        masters = as_tensors("master", self.masters.parameters, self.masters.arrays)
        return {
            "kind": "SGD", "lr": self.lr, "momentum": self.momentum, "nesterov": self.nesterov,
            "weight_decay": self.weight_decay, **as_tensors("velocity", moving, self.velocity), **masters,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the velocities in and takes over `lr`. The other hyper-parameters stay as they were given."""
        copy_state(self.state_dict(), state)
        self.lr = state["lr"]
