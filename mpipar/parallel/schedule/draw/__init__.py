"""A schedule drawn from its lists: as text for a terminal, as SVG, as a Gantt chart of Mermaid."""

from __future__ import annotations

from mpipar.parallel.schedule.draw.boxes import title
from mpipar.parallel.schedule.draw.mermaid import as_mermaid
from mpipar.parallel.schedule.draw.svg import as_svg
from mpipar.parallel.schedule.draw.text import as_lines

__all__ = ["as_lines", "as_mermaid", "as_svg", "title"]
