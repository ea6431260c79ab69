"""What all drawings share: the boxes in which a rank computes, each with a short label."""

from __future__ import annotations

from typing import NamedTuple

from mpipar.parallel.schedule.actions import Action, Schedule
from mpipar.parallel.schedule.cost import Durations, timeline

__all__ = ["LETTERS", "Box", "boxes", "legend", "title", "unit"]

LETTERS = {"forward": "F", "backward": "B", "backward_input": "B", "backward_weight": "W"}
MEANINGS = {
    "forward": "F forward",
    "backward": "B backward",
    "backward_input": "B backward for the input",
    "backward_weight": "W backward for the weights",
}


class Box(NamedTuple):
    """A computation in time."""

    kind: str
    chunk: int  # which of the stages of its rank, from 0
    label: str
    start: float
    end: float


def boxes(schedule: Schedule, durations: Durations) -> list[list[Box]]:
    """The computations of each rank that take time, in order."""
    return [
        [
            Box(span.action.kind, chunk(schedule, span.action), label(schedule, span.action), *span[1:])
            for span in line
            if span.end > span.start
        ]
        for line in timeline(schedule, durations)
    ]


def chunk(schedule: Schedule, action: Action) -> int:
    return schedule.stages_of(schedule.rank_of(action.stage)).index(action.stage)


def label(schedule: Schedule, action: Action) -> str:
    """``F3``: the forward of micro-batch 3. With two stages a rank ``f3`` is that of the second, with more ``F3b``."""
    text, which = f"{LETTERS[action.kind]}{action.micro_batch}", chunk(schedule, action)
    chunks = schedule.stages // schedule.ranks
    if chunks <= 2:
        return text.lower() if which else text
    return f"{text}{chr(ord('a') + which)}" if chunks <= 26 else f"{text}.{which}"


def unit(lines: list[list[Box]]) -> float:
    """The shortest time that a box takes."""
    return min((box.end - box.start for line in lines for box in line), default=1)


def title(schedule: Schedule) -> str:
    return (
        f"{schedule.name}, ranks {schedule.ranks}, stages {schedule.stages}, "
        f"micro-batches {schedule.micro_batches}"
    )


def legend(schedule: Schedule) -> str:
    """What the labels mean, of those kinds that are there."""
    kinds = {action.kind for actions in schedule.lists for action in actions}
    parts = [meaning for kind, meaning in MEANINGS.items() if kind in kinds]
    chunks = schedule.stages // schedule.ranks
    if chunks > 1:
        parts.append(
            "small letters second stage of a rank" if chunks == 2 else "a, b, c ... stages of a rank"
        )
    return "; ".join(parts)
