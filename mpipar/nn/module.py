"""The Module: an object whose attributes are parameters and other modules, found in the order they were set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from mpipar.errors import PlacementError, UsageError
from mpipar.log import WeightRow
from mpipar.tensor import Tensor, no_grad, tensor


class Module:
    """Base of all layers and models. Derive from it, set attributes, write `__call__`.

    A parameter is a leaf Tensor that requires a gradient; it is known by the name that it was made with, which
    also keys its initial values. One tensor in two places (a tied weight) is one parameter.
    """

    training: bool = True

    def modules(self) -> Iterator[Module]:
        """This module and all below it, depth first, in the order of their attributes."""
        yield self
        for value in vars(self).values():
            for child in _members(value):
                if isinstance(child, Module):
                    yield from child.modules()

    def named_parameters(self) -> dict[str, Tensor]:
        """All parameters by name. Raises UsageError where two have one name."""
        found: dict[str, Tensor] = {}
        for module in self.modules():
            for value in vars(module).values():
                for member in _members(value):
                    if isinstance(member, Tensor) and member.is_leaf:
                        _add(found, member)
        return found

    def parameters(self) -> list[Tensor]:
        """All parameters, each once, in the same order on every rank."""
        return list(self.named_parameters().values())

    def train(self, mode: bool = True) -> Self:
        """Turns dropout and its like on."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Turns them off."""
        return self.train(False)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name, off the tape: the arrays themselves, not copies. Moves nothing."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies weights in: Tensors of the same layout, or global host arrays that every rank has.

        Raises UsageError, before anything is changed, where names or shapes differ.
        """
        mine = self.named_parameters()
        _check_names(set(mine), set(state))
        found = {name: _as_tensor(state[name], parameter) for name, parameter in mine.items()}
        with no_grad():
            for name, parameter in mine.items():
                parameter.copy_(found[name])


def weight_rows(module: Module) -> list[WeightRow]:
    """A row for each parameter, for `log.weights_table`."""
    return [
        WeightRow(name, p.shape, p.layout.words or "Replicate()", p.local.nbytes)
        for name, p in module.named_parameters().items()
    ]


def _members(value: Any) -> Iterator[Any]:
    """A value, or what is in a list, tuple or dict."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _members(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _members(item)
    else:
        yield value


def _add(found: dict[str, Tensor], parameter: Tensor) -> None:
    if not parameter.name:
        raise UsageError(f"a parameter {parameter.layout} has no name; make it with mp.parameter(name, …)")
    if found.setdefault(parameter.name, parameter) is not parameter:
        raise UsageError(f"two parameters are named {parameter.name!r}; each needs a name of its own")


def _check_names(mine: set[str], theirs: set[str]) -> None:
    missing, extra = sorted(mine - theirs), sorted(theirs - mine)
    if missing or extra:
        raise UsageError(
            f"load_state_dict: missing {missing[:5] or 'nothing'}, not known {extra[:5] or 'nothing'}"
        )


def _as_tensor(value: Any, parameter: Tensor) -> Tensor:
    mine = f"load_state_dict: {parameter.name!r} is {parameter.layout}, what came is"
    try:
        found: Tensor = (
            value if isinstance(value, Tensor) else tensor(value, parameter.mesh, **_cuts(parameter))
        )
    except PlacementError as error:  # it lacks a dim that is cut
        raise UsageError(f"{mine} {error}") from None
    if found.layout != parameter.layout:
        raise UsageError(f"{mine} {found.layout}")
    return found


def _cuts(parameter: Tensor) -> dict[str, Any]:
    """The placements that cut it, outermost first."""
    layout = parameter.layout
    return {axis: layout.placement(axis) for cut in layout.cuts for axis in cut.axes}
