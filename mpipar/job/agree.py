"""What the ranks must agree on before they go on: rank 0 decides, all compare, or each tells how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from mpipar.errors import UsageError

T = TypeVar("T")


class Ranks(Protocol):
    """The part of a communicator that is needed here."""

    @property
    def rank(self) -> int: ...
    def broadcast_object(self, value: Any, root: int = 0) -> Any: ...
    def allgather_object(self, value: Any) -> list[Any]: ...


class Outcome(NamedTuple):
    """What a rank got, or the UsageError that it ran into."""

    value: Any = None
    problem: UsageError | None = None


def on_first_rank(world: Ranks, make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on all ranks; a UsageError there is raised on all."""
    outcome: Outcome = world.broadcast_object(attempt(make) if world.rank == 0 else None)
    if outcome.problem is not None:
        raise outcome.problem
    value: T = outcome.value
    return value


def on_each_rank(world: Ranks, make: Callable[[], T]) -> list[T]:
    """What `make` returns on each rank, all of it on every rank; all ranks raise where one of them fails."""
    outcomes: list[Outcome] = world.allgather_object(attempt(make))
    refuse_problems([outcome.problem for outcome in outcomes])
    return [outcome.value for outcome in outcomes]


def on_all_ranks(world: Ranks, make: Callable[[], T], same: Callable[[T], bytes], otherwise: str) -> T:
    """What `make` returns on each rank, where none fails and `same` is equal on all.

    Otherwise all ranks raise the same UsageError, which names the ranks that stand out: where their values do, it is
    `otherwise` with "{ranks}" replaced.
    """
    outcome = attempt(make)
    digest = b"" if outcome.problem else same(outcome.value)
    told: list[Outcome] = world.allgather_object(Outcome(digest, outcome.problem))
    refuse_problems([each.problem for each in told])
    refuse_differences([each.value for each in told], otherwise)
    value: T = outcome.value
    return value


def attempt(make: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(value=make())
    except UsageError as error:
        return Outcome(problem=error)


def refuse_problems(problems: Sequence[UsageError | None]) -> None:
    """Raises the first of the problems; it names the ranks that had one, unless all had."""
    failed = [(rank, problem) for rank, problem in enumerate(problems) if problem is not None]
    if not failed:
        return
    ranks, first = named([rank for rank, _ in failed]), failed[0][1]
    where = "" if len(failed) == len(problems) else f" (on {ranks}; the other ranks had no trouble)"
    raise type(first)(f"{first}{where}")


def refuse_differences(digests: Sequence[bytes], otherwise: str) -> None:
    usual, _ = Counter(digests).most_common(1)[0]
    odd = [rank for rank, digest in enumerate(digests) if digest != usual]
    if odd:
        raise UsageError(otherwise.replace("{ranks}", named(odd)))


def named(ranks: Sequence[int]) -> str:
    """``rank 2`` or ``ranks 1, 3``."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
