"""What all optimizers share: which weights decay, and the gradients that they may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from mpipar.backend import Array
from mpipar.errors import GraphError, UsageError
from mpipar.tensor import Tensor, changes

Decays: TypeAlias = Callable[[Tensor], bool]


def decays(parameter: Tensor) -> bool:
    """Weights decay; biases and the gains of norms do not. Decided by the last word of the name."""
    return parameter.name.rsplit(".", 1)[-1] not in ("bias", "gain")


def checked(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters, each a leaf and each once."""
    listed = list(parameters)
    if not listed:
        raise UsageError("an optimizer without parameters: pass model.parameters()")
    if len({id(parameter) for parameter in listed}) != len(listed):
        raise UsageError("an optimizer was given a parameter twice; model.parameters() names each once")
    for parameter in listed:
        _ = parameter.leaf  # raises where it is none
    return listed


def gradients(parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, Array]]:
    """Each parameter and its synced gradient. Raises GraphError where a sum is still owed, before any update."""
    for parameter in parameters:
        leaf = parameter.leaf
        if leaf.value is not None and leaf.layout != parameter.layout:
            raise GraphError(
                f"optimizer.step: the gradient of {parameter.name!r} is {leaf.layout}, the weight {parameter.layout}. "
                "Call sync_gradients(model) after backward"
            )
    for parameter in parameters:
        if parameter.leaf.value is not None:
            changes.note(parameter.mesh.xp, parameter.local)  # the caller is about to
            yield parameter, parameter.leaf.value
