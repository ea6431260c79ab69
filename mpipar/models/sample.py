"""Text from a model, one token after the other."""

from __future__ import annotations

from math import exp
from typing import Protocol

from mpipar.mesh import Mesh
from mpipar.random import key
from mpipar.tensor import Tensor, no_grad, tensor


class LanguageModel(Protocol):
    """A GPT, or a pipeline of its stages: tokens (B, T) on `mesh` → logits (B, T, V) on the same ranks."""

    mesh: Mesh
    training: bool

    @property
    def context(self) -> int: ...
    def train(self, mode: bool = True) -> object: ...
    def __call__(self, x: Tensor, /) -> Tensor: ...


def sample(
    model: LanguageModel, prompt: bytes, length: int, *, temperature: float = 0.8, seed: int = 0
) -> bytes:
    """`prompt` continued by `length` bytes, the same on every mesh. Collective: call it on all ranks.

    Each byte is drawn from softmax(logits / temperature); 0 takes the likeliest.
    """
    mesh, context = model.mesh, model.context
    training = model.training
    text = list(prompt or b"\n")
    model.train(False)
    with no_grad():
        for place in range(length):
            tokens = tensor([text[-context:]], mesh, dtype="int64")
            logits = model(tokens)[:, -1].numpy()[0].tolist()
            text.append(_drawn(logits, temperature, key(seed, "sample", place) / 2**64))
    model.train(training)
    return bytes(text)


def _drawn(logits: list[float], temperature: float, u: float) -> int:
    """The token at the quantile `u` of softmax(logits / temperature)."""
    top = max(logits)
    if temperature == 0:
        return logits.index(top)
    weights = [exp((z - top) / temperature) for z in logits]
    rest = u * sum(weights)
    for token, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return token
    return logits.index(top)
