"""A schedule for a terminal: one row a rank, columns of time."""

from __future__ import annotations

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.actions import Schedule
from mpipar.parallel.schedule.cost import Durations
from mpipar.parallel.schedule.draw.boxes import Box, boxes, legend, unit

__all__ = ["as_lines"]

IDLE, BUSY = ".", "-"
MOST = 100_000  # columns


def as_lines(schedule: Schedule, durations: Durations | None = None) -> str:
    """The drawing, a legend below it. The shortest computation is as wide as the longest label.

    >>> from mpipar.parallel.schedule import one_f_one_b
    >>> print(as_lines(one_f_one_b(ranks=2, micro_batches=3)))
    rank 0  F0F1....B0--F2B1--..B2--
    rank 1  ..F0B0--F1B1--F2B2--....
    F forward; B backward; . idle; 2 columns are 1 of time
    """
    lines = boxes(schedule, durations or Durations())
    wide = max((len(box.label) for line in lines for box in line), default=1)
    scale = wide / unit(lines)
    length = max((column(box.end, scale) for line in lines for box in line), default=0)
    if length > MOST:
        raise ScheduleError(
            f"{schedule.name}: its drawing would be {length:,} columns wide; text has {MOST:,} at most"
        )
    margin = len(f"rank {schedule.ranks - 1}")
    rows = [f"{f'rank {rank}':<{margin}}  {row(line, scale, length)}" for rank, line in enumerate(lines)]
    below = f"{legend(schedule)}; {IDLE} idle; {wide} columns are {unit(lines):.4g} of time"
    return "\n".join([*rows, below])


def column(time: float, scale: float) -> int:
    return round(time * scale)


def row(line: list[Box], scale: float, length: int) -> str:
    drawn = ""
    for box in line:
        drawn = drawn.ljust(column(box.start, scale), IDLE)
        drawn += box.label.ljust(column(box.end, scale) - len(drawn), BUSY)
    return drawn.ljust(length, IDLE)
