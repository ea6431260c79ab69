"""The named schedules, in order of increasing complexity. Each maker writes the computations of every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from mpipar.config.flags import did_you_mean
from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.actions import Action, Schedule
from mpipar.parallel.schedule.messages import connect

__all__ = ["NAMES", "gpipe", "interleaved", "make", "one_f_one_b", "zero_bubble"]

NAMES = ("gpipe", "1f1b", "interleaved", "zero_bubble")


def make(name: str, ranks: int, micro_batches: int, chunks: int = 2) -> Schedule:
    """A schedule by its name; `chunks` is how many stages a rank holds under `interleaved`."""
    if name == "interleaved":
        return interleaved(ranks, micro_batches, chunks)
    makers = {"gpipe": gpipe, "1f1b": one_f_one_b, "zero_bubble": zero_bubble}
    if name not in makers:
        close = did_you_mean(name, NAMES) or "."
        raise ScheduleError(f"schedule {name!r} is unknown{close} Known: {', '.join(NAMES)}, or FILE.toml")
    return makers[name](ranks, micro_batches)


def build(
    name: str,
    ranks: int,
    micro_batches: int,
    computations: Callable[[int], Iterable[Action]],
    chunks: int = 1,
) -> Schedule:
    """The schedule of the computations of each rank, with its messages."""
    if min(ranks, micro_batches, chunks) < 1:
        raise ScheduleError(
            f"{name}: {ranks} ranks, {micro_batches} micro-batches, {chunks} chunks: at least 1 of each wanted"
        )
    lists = tuple(tuple(computations(rank)) for rank in range(ranks))
    return connect(Schedule(name, ranks, ranks * chunks, micro_batches, lists))


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """All forwards, then all backwards, the last micro-batch first (Huang et al. 2019, "GPipe", figure 2c).

    Every rank keeps the activations of all micro-batches.
    """

    def computations(rank: int) -> Iterator[Action]:
        yield from (Action("forward", rank, i) for i in range(micro_batches))
        yield from (Action("backward", rank, i) for i in reversed(range(micro_batches)))

    return build("gpipe", ranks, micro_batches, computations)


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """A backward as soon as it can be, then one forward, one backward by turns (Narayanan et al. 2019, "PipeDream",
    section 3.2, with the flush of Narayanan et al. 2021, figure 4).

    The bubble is GPipe's, but rank r keeps at most ranks - r activations.
    """

    def computations(rank: int) -> Iterator[Action]:
        forwards = [Action("forward", rank, i) for i in range(micro_batches)]
        backwards = [Action("backward", rank, i) for i in range(micro_batches)]
        return by_turns(forwards, backwards, warm_up=ranks - 1 - rank)

    return build("1f1b", ranks, micro_batches, computations)


def by_turns(forwards: Sequence[Action], backwards: Sequence[Action], warm_up: int) -> Iterator[Action]:
    """`warm_up` forwards (or all), then a forward and a backward by turns, then the backwards that are left."""
    warm_up = min(warm_up, len(forwards))
    turns = len(forwards) - warm_up
    yield from forwards[:warm_up]
    yield from chain.from_iterable(zip(forwards[warm_up:], backwards[:turns], strict=True))
    yield from backwards[turns:]


def interleaved(ranks: int, micro_batches: int, chunks: int = 2) -> Schedule:
    """1F1B with `chunks` stages a rank, stage s on rank s % ranks (Narayanan et al. 2021, section 2.2).

    Micro-batches go in groups of `ranks`: a group passes all stages of a rank before the next one begins. The bubble is
    1F1B's by `chunks`, for more messages and more live activations. Where the last group is not full, it is planned as
    if it were, and the actions of micro-batches that do not exist are left out, which cannot make a cycle.
    """

    def order(kind: str, rank: int, stages: Sequence[int]) -> list[Action]:
        return [
            Action(kind, stage + rank, first + member)
            for first in range(0, micro_batches, ranks)
            for stage in stages
            for member in range(ranks)
        ]

    def computations(rank: int) -> Iterator[Action]:
        stages = range(0, ranks * chunks, ranks)
        below = ranks - 1 - rank
        warm_up = below if chunks == 1 else 2 * below + (chunks - 1) * ranks
        turns = by_turns(order("forward", rank, stages), order("backward", rank, stages[::-1]), warm_up)
        return (action for action in turns if action.micro_batch < micro_batches)

    return build("interleaved", ranks, micro_batches, computations, chunks)


def zero_bubble(ranks: int, micro_batches: int) -> Schedule:
    """ZB-H1 (Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.1): 1F1B with backward in two parts.

    A gradient goes on to the next rank before the weights' work is done, and that fills the end: rank r is r
    micro-batches late with it. No rank keeps more activations than the first one of 1F1B. ZB-H2 would end no sooner:
    its gain is to begin the next step before all ranks have ended this one, and here a step ends with sync.
    """

    def computations(rank: int) -> Iterator[Action]:
        forwards = [Action("forward", rank, i) for i in range(micro_batches)]
        inputs = [Action("backward_input", rank, i) for i in range(micro_batches)]
        weights = [Action("backward_weight", rank, i) for i in range(micro_batches)]
        for action in by_turns(forwards, inputs, warm_up=ranks - 1 - rank):
            yield action
            if action.kind == "backward_input" and action.micro_batch >= rank:
                yield weights[action.micro_batch - rank]
        yield from weights[max(0, micro_batches - rank) :]

    return build("zero_bubble", ranks, micro_batches, computations)
