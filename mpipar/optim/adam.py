"""Adam and AdamW: one update, two ways to decay."""

from __future__ import annotations

from collections.abc import Sequence

from mpipar.backend import Array
from mpipar.optim.common import Decays, checked, decays, gradients
from mpipar.tensor import Tensor


class Moments:
    """The state that both share: the running means of g and g² of each parameter, and the number of steps."""

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float, decays: Decays) -> None:
        self.parameters = checked(parameters)
        self.steps = 0
        self.state: dict[str, tuple[Array, Array]] = {}  # with the layout of the weight
        self._decay = {p.name: weight_decay if decays(p) else 0.0 for p in self.parameters}

    def step(self, lr: float, betas: tuple[float, float], eps: float, decoupled: bool) -> None:
        found = list(gradients(self.parameters))
        self.steps += 1
        for p, grad in found:
            xp = p.mesh.xp
            if p.name not in self.state:
                self.state[p.name] = (xp.zeros(grad.shape, grad.dtype), xp.zeros(grad.shape, grad.dtype))
            m, v = self.state[p.name]
            xp.adam(p.local, grad, m, v, self.steps, lr, *betas, eps, self._decay[p.name], decoupled)
        for p in self.parameters:
            p.clear_grad()


class Adam:
    """w ← w - lr·m̂/(√v̂ + eps). Kingma & Ba 2015, algorithm 1. `weight_decay`·w is added to the gradient."""

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0, decays: Decays = decays,
    ) -> None:  # fmt: skip
        self.lr, self.betas, self.eps = lr, betas, eps
        self.moments = Moments(parameters, weight_decay, decays)

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        self.moments.step(self.lr, self.betas, self.eps, decoupled=False)


class AdamW:
    """Adam with the decay apart from the gradient: w ← (1 - lr·decay)·w first. Loshchilov & Hutter 2019, algorithm 2.

    Parameters for which `decays` is false (by default biases and the gains of norms) do not decay.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8, weight_decay: float = 0.1, decays: Decays = decays,
    ) -> None:  # fmt: skip
        self.lr, self.betas, self.eps = lr, betas, eps
        self.moments = Moments(parameters, weight_decay, decays)

    def step(self) -> None:
        """Updates the weights in place and clears the gradients."""
        self.moments.step(self.lr, self.betas, self.eps, decoupled=True)
