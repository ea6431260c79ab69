"""A schedule as an SVG picture: one row a rank, time to the right."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from mpipar.parallel.schedule.actions import Schedule
from mpipar.parallel.schedule.cost import Durations
from mpipar.parallel.schedule.draw.boxes import Box, boxes, legend, title, unit

__all__ = ["as_svg"]

ROW, MARGIN, GAP, FONT = 28, 64, 4, 12  # pixels
LETTER = 12  # pixels, the width of the widest letter with room around it
COLOURS = {  # a chunk's shade: the first dark, the second light, by turns
    "forward": ("#4477aa", "#99bbdd"),
    "backward": ("#228833", "#99cc99"),
    "backward_input": ("#228833", "#99cc99"),
    "backward_weight": ("#ccbb44", "#eee0aa"),
}


def as_svg(schedule: Schedule, durations: Durations | None = None) -> str:
    """The picture as text. The shortest computation is as wide as the longest label."""
    lines = boxes(schedule, durations or Durations())
    scale = LETTER * max((len(box.label) for line in lines for box in line), default=1) / unit(lines)
    length = max((box.end for line in lines for box in line), default=0) * scale
    height = (schedule.ranks + 2) * ROW
    width = MARGIN + max(length, 7 * len(legend(schedule))) + GAP
    picture = xml.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height}",
        width=f"{width:g}",
        height=f"{height}",
        attrib={"font-family": "sans-serif", "font-size": f"{FONT}"},
    )
    xml.SubElement(picture, "rect", width="100%", height="100%", fill="white")
    write(picture, GAP, ROW / 2, title(schedule))
    for rank, line in enumerate(lines):
        top = (rank + 1) * ROW
        write(picture, GAP, top + ROW / 2, f"rank {rank}")
        rectangle(picture, MARGIN, top, length, "#eeeeee")
        for box in line:
            draw(picture, box, top, scale)
    write(picture, MARGIN, height - ROW / 2, legend(schedule))
    xml.indent(picture)
    return xml.tostring(picture, encoding="unicode") + "\n"


def draw(picture: xml.Element, box: Box, top: float, scale: float) -> None:
    """A box with its label in the middle."""
    left, width = MARGIN + box.start * scale, (box.end - box.start) * scale
    rectangle(picture, left, top, width, COLOURS[box.kind][box.chunk % 2])
    text = write(picture, left + width / 2, top + ROW / 2, box.label)
    text.set("text-anchor", "middle")
    text.set("fill", "black" if box.chunk % 2 or box.kind == "backward_weight" else "white")


def rectangle(picture: xml.Element, left: float, top: float, width: float, colour: str) -> None:
    xml.SubElement(
        picture,
        "rect",
        x=f"{left:g}",
        y=f"{top + 1:g}",
        width=f"{width:g}",
        height=f"{ROW - 2}",
        fill=colour,
        stroke="white",
    )


def write(picture: xml.Element, left: float, middle: float, words: str) -> xml.Element:
    text = xml.SubElement(picture, "text", x=f"{left:g}", y=f"{middle:g}", dy="0.35em")
    text.text = words
    return text
