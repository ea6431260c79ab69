"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.backend import Array
from mpipar.errors import UsageError
from mpipar.optim.common import Decays, checked, decays, gradients
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
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self._decay = {p.name: weight_decay if decays(p) else 0.0 for p in self.parameters}
        self.state: dict[str, Array] = {}  # the velocity of each parameter, with the layout of the weight

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        for p, grad in gradients(self.parameters):
            xp, decay = p.mesh.xp, self._decay[p.name]
            velocity = None
            if self.momentum:
                velocity = self.state.setdefault(p.name, xp.zeros(grad.shape, grad.dtype))
            xp.sgd(p.local, grad, velocity, self.lr, self.momentum, self.nesterov, decay)
        for p in self.parameters:
            p.clear_grad()
