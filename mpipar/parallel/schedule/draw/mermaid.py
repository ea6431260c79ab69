"""A schedule as a Gantt chart of Mermaid, which GitHub and many editors draw in Markdown."""

from __future__ import annotations

from mpipar.parallel.schedule.actions import Schedule
from mpipar.parallel.schedule.cost import Durations
from mpipar.parallel.schedule.draw.boxes import Box, boxes, title, unit

__all__ = ["as_mermaid"]

COLOURS = {"forward": "active", "backward": "done", "backward_input": "done", "backward_weight": "crit"}
SECOND = 1000  # in milliseconds, the unit of `dateFormat x`; the axis counts seconds

HEAD = """\
---
displayMode: compact
---
gantt
    dateFormat x
    axisFormat %s
    title {title}
"""


def as_mermaid(schedule: Schedule, durations: Durations | None = None) -> str:
    """The text of the chart, a section a rank; one second of its axis is the shortest computation.

    Mermaid has no colours of one's own in a Gantt chart: forward is `active`, backward `done`, weights `crit`.
    """
    lines = boxes(schedule, durations or Durations())
    scale = SECOND / unit(lines)
    sections = [section(rank, line, scale) for rank, line in enumerate(lines)]
    return HEAD.format(title=plain(title(schedule))) + "\n".join(sections) + "\n"


def section(rank: int, line: list[Box], scale: float) -> str:
    tasks = [
        f"    {box.label} :{COLOURS[box.kind]}, {round(box.start * scale)}, {round(box.end * scale)}"
        for box in line
    ]
    return "\n".join([f"    section rank {rank}", *tasks])


def plain(text: str) -> str:
    """Without what Mermaid would take for its own: a name may be anything."""
    return "".join(letter if letter.isalnum() or letter in " -_,." else " " for letter in text)
