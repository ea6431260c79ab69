"""Adam and AdamW: one update, two ways to decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


class Moments:
    """The state that both share: the running means of g and g² of each parameter, and the number of steps."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float, decays: Decays) -> None:
        self.parameters = checked(parameters)
        self.steps = 0
        self.m = {p.name: zeros_as_gradient(p) for p in self.parameters}  # with the layout of the gradient
        self.v = {p.name: zeros_as_gradient(p) for p in self.parameters}
        self.masters = Masters(self.parameters)
        self._decay = {p.name: weight_decay if decays(p) else 0.0 for p in self.parameters}

    def step(self, lr: float, betas: tuple[float, float], eps: float, decoupled: bool) -> None:
        check_synced(self.parameters)
        self.steps += 1
        for p, mine, grad in updates(self.parameters, self.masters):
            m, v, decay = self.m[p.name], self.v[p.name], self._decay[p.name]
            p.mesh.xp.adam(mine, grad, m, v, self.steps, lr, *betas, eps, decay, decoupled)
        finish(self.parameters)

    def tensors(self) -> dict[str, Tensor]:
        masters = as_tensors("master", self.masters.parameters, self.masters.arrays)
        return as_tensors("m", self.parameters, self.m) | as_tensors("v", self.parameters, self.v) | masters


class Adam:
    """w ← w - lr·m̂/(√v̂ + eps). Kingma & Ba 2015, algorithm 1. `weight_decay`·w is added to the gradient."""

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0, decays: Decays = decays,
    ) -> None:  # fmt: skip
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.moments = Moments(parameters, weight_decay, decays)

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        self.moments.step(self.lr, self.betas, self.eps, decoupled=False)

    def state_dict(self) -> dict[str, Any]:
        """The moments by name, the arrays themselves; the number of steps; and the hyper-parameters, to be read."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the moments in and takes over steps and `lr`. The other hyper-parameters stay as they were given."""
        load_into(self, state)


class AdamW:
    """Adam with the decay apart from the gradient: w ← (1 - lr·decay)·w first. Loshchilov & Hutter 2019, algorithm 2.

    Parameters for which `decays` is false (by default biases and the gains of norms) do not decay.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8, weight_decay: float = 0.1, decays: Decays = decays,
    ) -> None:  # fmt: skip
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.moments = Moments(parameters, weight_decay, decays)

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        self.moments.step(self.lr, self.betas, self.eps, decoupled=True)

    def state_dict(self) -> dict[str, Any]:
        """The moments by name, the arrays themselves; the number of steps; and the hyper-parameters, to be read."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the moments in and takes over steps and `lr`. The other hyper-parameters stay as they were given."""
        load_into(self, state)


def state_of(optimizer: Adam | AdamW) -> dict[str, Any]:
    o = optimizer
    return {
        "kind": type(o).__name__, "steps": o.moments.steps, "lr": o.lr, "betas": list(o.betas), "eps": o.eps,
        "weight_decay": o.weight_decay, **o.moments.tensors(),
    }  # fmt: skip


def load_into(optimizer: Adam | AdamW, state: Mapping[str, Any]) -> None:
    copy_state(state_of(optimizer), state)
    optimizer.moments.steps, optimizer.lr = state["steps"], state["lr"]
