"""How a collective gets its two forms: written once as a plan, run at once or in the background."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from mpipar.comm.handle import Handle, Steps

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Plan(Generic[R]):
    """What a collective will do on this rank; it ends with an R."""

    operation: str
    n_bytes: int  # of this rank, that other ranks need
    steps: Steps
    several: bool = False  # it may take more than one step


def collective(plan: Callable[Concatenate[Any, P], Plan[R]]) -> Callable[Concatenate[Any, P], R]:
    """The form that returns the result."""

    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._now(plan(self, *args, **kwargs))
        return result

    returns = str(plan.__annotations__["return"]).removeprefix("Plan[").removesuffix("]")
    return _named(run, plan, plan.__name__, plan.__doc__, returns)


def background(run: Callable[Concatenate[Any, P], Any]) -> Callable[Concatenate[Any, P], Handle]:
    """The same in the background: the form that returns a handle, whose `wait` returns the result."""
    plan: Callable[Concatenate[Any, P], Plan[Any]] = run.__wrapped__  # type: ignore[attr-defined]

    def start(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Handle:
        handle: Handle = self._later(plan(self, *args, **kwargs))
        return handle

    return _named(
        start, plan, f"i{plan.__name__}", f"`{plan.__name__}` in the background: {plan.__doc__}", "Handle"
    )


F = TypeVar("F", bound=Callable[..., Any])


def _named(form: F, plan: Callable[..., Any], name: str, doc: str | None, returns: str) -> F:
    """`form` with the plan's arguments, for `help` and for whoever reads signatures."""
    form.__name__, form.__doc__ = name, doc
    form.__qualname__ = plan.__qualname__.replace(plan.__name__, name)
    form.__module__ = plan.__module__
    form.__wrapped__ = plan  # type: ignore[attr-defined]
    form.__signature__ = inspect.signature(plan).replace(return_annotation=returns)  # type: ignore[attr-defined]
    return form
