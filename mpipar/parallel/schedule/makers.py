"""The named schedules, in order of increasing complexity. Each maker writes the computations of every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from mpipar.parallel.schedule.actions import Action, Schedule
from mpipar.parallel.schedule.messages import connect

__all__ = ["gpipe", "one_f_one_b"]


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """All forwards, then all backwards, the last micro-batch first (Huang et al. 2019, "GPipe", figure 2c).

    Every rank keeps the activations of all micro-batches.
    """

    def computations(rank: int) -> Iterator[Action]:
        yield from (Action("forward", rank, i) for i in range(micro_batches))
        yield from (Action("backward", rank, i) for i in reversed(range(micro_batches)))

    return connect("gpipe", ranks, ranks, micro_batches, [computations(rank) for rank in range(ranks)])


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """A backward as soon as it can be, then one forward, one backward by turns (Narayanan et al. 2019, "PipeDream",
    section 3.2, with the flush of Narayanan et al. 2021, figure 4).

    The bubble is GPipe's, but rank r keeps at most ranks - r activations.
    """

    def computations(rank: int) -> Iterator[Action]:
        forwards = [Action("forward", rank, i) for i in range(micro_batches)]
        backwards = [Action("backward", rank, i) for i in range(micro_batches)]
        return by_turns(forwards, backwards, warm_up=ranks - 1 - rank)

    return connect("1f1b", ranks, ranks, micro_batches, [computations(rank) for rank in range(ranks)])


def by_turns(forwards: Sequence[Action], backwards: Sequence[Action], warm_up: int) -> Iterator[Action]:
    """`warm_up` forwards (or all), then a forward and a backward by turns, then the backwards that are left."""
    warm_up = min(warm_up, len(forwards))
    turns = len(forwards) - warm_up
    yield from forwards[:warm_up]
    yield from chain.from_iterable(zip(forwards[warm_up:], backwards[:turns], strict=True))
    yield from backwards[turns:]
