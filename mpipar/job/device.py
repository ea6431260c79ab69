"""Where the arrays of a job live: on the CPU, or each rank on a card. All ranks decide together, before any is made.

A rank takes the card whose number is its place among the ranks of its machine, counted around the cards that it sees;
where the launcher shows each rank a card of its own, that one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpipar import backend
from mpipar.backend import Backend, cards
from mpipar.comm import Comm, Ledger
from mpipar.errors import UsageError
from mpipar.job import among, aware, local_rank, world
from mpipar.job.threads import machine

DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Choice:
    """A backend, and in a few words what it is or why it is no card."""

    xp: Backend
    words: str


class Place(NamedTuple):
    """What a rank tells the others: the card that it would take, or what is in the way."""

    card: str = ""  # with the machine: the same text only for the same card
    name: str = ""
    number: int = 0
    problem: str = ""
    claim: aware.Claim = "no"  # whether its MPI is GPU-aware


_default: Backend | None = None


def set_default(xp: Backend | None) -> None:
    """Where meshes are made that name no device. None: on the CPU."""
    global _default  # noqa: PLW0603  (the tests of a program that names no device choose it)
    _default = xp


def choose(
    device: str | Backend | None, ranks: tuple[int, ...] | None = None, ranks_per_gpu: int = 1
) -> Choice:
    """The backend of a device: "cpu", "gpu", or "auto", a card where every rank has one. Collective over the ranks.

    Raises UsageError, the same on all ranks, where "gpu" is asked for and a rank has none.
    """
    if device is None:
        device = "cpu" if _default is None else _default
    if not isinstance(device, str):
        return Choice(device, device.name)
    if device not in DEVICES:
        raise UsageError(f"device {device!r} is not known; write device='auto', 'cpu' or 'gpu'")
    if device == "cpu":
        return Choice(backend.cpu(), "the CPU")
    everyone = tuple(range(world().size)) if ranks is None else ranks
    team = among(everyone, "device", Ledger(), backend.cpu())
    places: list[Place] = team.allgather_object(my_place())
    problem = problem_of(places, ranks_per_gpu)
    if problem and device == "gpu":
        raise UsageError(f"device 'gpu': {problem}")
    if problem:
        return Choice(backend.cpu(), f"the CPU ({problem})")
    mine = places[team.rank]
    gpu_aware = is_gpu_aware(team, mine, places)
    carried = "a GPU-aware MPI" if gpu_aware else "collectives through host buffers"
    return Choice(
        cards.take(mine.number, mine.name, gpu_aware),
        f"GPU ({mine.name}, {carried})" if team.size > 1 else f"GPU ({mine.name})",
    )


def my_place() -> Place:
    look = cards.look()
    if look.problem:
        return Place(problem=look.problem)
    card = look.cards[local_rank() % len(look.cards)]
    return Place(f"{machine()} {card.identity}", card.name, card.number, claim=aware.claim())


def problem_of(places: Sequence[Place], ranks_per_gpu: int) -> str:
    """What keeps these ranks from taking these cards, with the line to write; empty where nothing does."""
    failed = [rank for rank, place in enumerate(places) if place.problem]
    if failed:
        return places[failed[0]].problem + ("" if len(failed) == len(places) else f" (on {named(failed)})")
    most = max(Counter(place.card for place in places).values())
    if most <= ranks_per_gpu:
        return ""
    count = len({place.card for place in places})
    return (
        f"{len(places)} ranks are more than {counted(count, 'card')} with {counted(ranks_per_gpu, 'rank')} each: "
        f"start {counted(count * ranks_per_gpu, 'rank')}, or write --ranks-per-gpu {most} (ranks_per_gpu={most})"
    )


def is_gpu_aware(team: Comm, mine: Place, places: Sequence[Place]) -> bool:
    """Whether all ranks may hand memory of their cards to MPI: said by the user, or by the library and seen to work."""
    claims = {place.claim for place in places}
    if len(places) == 1 or "no" in claims:
        return False
    if claims == {"yes"}:
        return True
    works = local_rank() > 0 or aware.probe(mine.number)  # one process a machine
    return all(team.allgather_object(works))


def named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"
