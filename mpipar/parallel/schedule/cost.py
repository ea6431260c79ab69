"""What a schedule costs, by simulation: how long a step takes, the bubble, the peak of live activations."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from mpipar.parallel.schedule.actions import Action, Schedule
from mpipar.parallel.schedule.order import source, walk

__all__ = ["Cost", "Durations", "Span", "cost", "peak", "timeline"]


class Durations(NamedTuple):
    """How long each kind of action takes for one stage and one micro-batch, in any unit, and a message on its way."""

    forward: float = 1
    backward_input: float = 1
    backward_weight: float = 1
    send: float = 0

    def of(self, action: Action) -> float:
        """The time that a rank spends with it: messages go beside the computation."""
        parts = {
            "forward": self.forward,
            "backward": self.backward_input + self.backward_weight,
            "backward_input": self.backward_input,
            "backward_weight": self.backward_weight,
        }
        return parts.get(action.kind, 0)


class Span(NamedTuple):
    """An action in time. A receive begins and ends when its message is there."""

    action: Action
    start: float
    end: float


class Cost(NamedTuple):
    """What a step costs. An activation is what one stage keeps for one micro-batch, from its forward until its backward
    is done, the weights' part too.
    """

    makespan: float  # from the first action to the last, in the unit of the durations
    bubble: float  # the share of all ranks' time in which they compute nothing, 0 to 1
    peak: tuple[int, ...]  # the most activations that each rank keeps at a time


def cost(
    schedule: Schedule,
    forward: float = 1,
    backward_input: float = 1,
    backward_weight: float = 1,
    send: float = 0,
) -> Cost:
    """The cost of a schedule that `check` has passed, where each kind of action takes so long.

    >>> from mpipar.parallel.schedule import one_f_one_b
    >>> cost(one_f_one_b(ranks=4, micro_batches=8), backward_input=0.5, backward_weight=0.5)
    Cost(makespan=22.0, bubble=0.2727272727272727, peak=(4, 3, 2, 1))
    """
    durations = Durations(forward, backward_input, backward_weight, send)
    lines = timeline(schedule, durations)
    makespan = max(span.end for line in lines for span in line)
    busy = sum(durations.of(span.action) for line in lines for span in line)
    bubble = 1 - busy / (schedule.ranks * makespan) if makespan else 0.0
    return Cost(makespan, bubble, tuple(map(peak, schedule.lists)))


def timeline(schedule: Schedule, durations: Durations) -> tuple[tuple[Span, ...], ...]:
    """When each rank does each of its actions: as soon as the one before it ended and its message has come."""
    lines: list[list[Span]] = [[] for _ in range(schedule.ranks)]
    ended = dict[Action, float]()
    for rank, action in walk(schedule):
        start = lines[rank][-1].end if lines[rank] else 0
        if message := source(action):
            start = max(start, ended[message] + durations.send)
        ended[action] = start + durations.of(action)
        lines[rank].append(Span(action, start, ended[action]))
    return tuple(map(tuple, lines))


def peak(actions: tuple[Action, ...]) -> int:
    """The most activations that a rank keeps: those of forwards whose backward, in all its parts, has not ended."""
    change = {"forward": 1, "backward": -1, "backward_weight": -1}
    return max(accumulate((change.get(action.kind, 0) for action in actions), initial=0))
