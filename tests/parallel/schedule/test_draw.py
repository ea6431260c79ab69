"""The drawings show every computation once, where the simulation has it. A failure shows the drawing."""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree as xml

import pytest

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule import COMPUTATIONS, NAMES, Durations, Schedule, make
from mpipar.parallel.schedule.draw import as_lines, as_mermaid, as_svg, title

pytestmark = pytest.mark.alone

SVG = "{http://www.w3.org/2000/svg}"


def computations(schedule: Schedule) -> int:
    return sum(action.kind in COMPUTATIONS for actions in schedule.lists for action in actions)


def test_text_of_1f1b() -> None:
    assert as_lines(make("1f1b", 4, 8)).splitlines() == [
        "rank 0  F0F1F2F3............B0--F4B1--F5B2--F6B3--F7B4--..B5--..B6--..B7--",
        "rank 1  ..F0F1F2........B0--F3B1--F4B2--F5B3--F6B4--F7B5--..B6--..B7--....",
        "rank 2  ....F0F1....B0--F2B1--F3B2--F4B3--F5B4--F6B5--F7B6--..B7--........",
        "rank 3  ......F0B0--F1B1--F2B2--F3B3--F4B4--F5B5--F6B6--F7B7--............",
        "F forward; B backward; . idle; 2 columns are 1 of time",
    ]


def test_text_of_stages_and_parts() -> None:
    assert as_lines(make("interleaved", 2, 2, 2)).splitlines()[0] == "rank 0  F0F1f0f1....b0--..b1--B0--B1--"
    assert as_lines(make("interleaved", 1, 1, 3)).splitlines()[0] == "rank 0  F0aF0bF0cB0c---B0b---B0a---"
    assert as_lines(make("interleaved", 1, 1, 27)).startswith("rank 0  F0.0-F0.1-")
    assert as_lines(make("zero_bubble", 2, 2)).splitlines() == [
        "rank 0  F0F1..B0W0B1W1",
        "rank 1  ..F0B0F1B1W0W1",
        "F forward; B backward for the input; W backward for the weights; . idle; 2 columns are 1 of time",
    ]


def test_text_with_durations_and_messages() -> None:
    assert as_lines(make("gpipe", 2, 1), Durations(0.5, 0.5, 0.25, 1)).splitlines() == [
        "rank 0  F0.............B0-",
        "rank 1  ......F0B0-.......",
        "F forward; B backward; . idle; 2 columns are 0.5 of time",
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 1), (3, 12), (11, 2)])
def test_each_drawing_has_each_computation_once(name: str, ranks: int, micro_batches: int) -> None:
    schedule = make(name, ranks, micro_batches)
    count = computations(schedule)
    *rows, _ = as_lines(schedule).splitlines()
    assert len(re.findall(r"[FBWfbw]\d+", "".join(row.partition("  ")[2] for row in rows))) == count
    assert len({len(row) for row in rows}) == 1
    picture = xml.fromstring(as_svg(schedule))
    labels = [text.text for text in picture.iter(f"{SVG}text") if text.get("text-anchor")]
    assert len(labels) == count
    assert len(re.findall(r"^    [FBWfbw]\d+ :", as_mermaid(schedule), re.MULTILINE)) == count


def test_svg_boxes_do_not_overlap_and_stay_inside() -> None:
    picture = xml.fromstring(as_svg(make("zero_bubble", 3, 4), Durations(1, 1.5, 0.5, 0.25)))
    found = [
        tuple(float(rectangle.get(name, 0)) for name in ("y", "x", "width"))
        for rectangle in list(picture.iter(f"{SVG}rect"))[1:]  # the background
    ]
    for _, row in groupby(found, key=lambda box: box[0]):
        (_, left, width), *line = row  # the row's own first
        ends = [left, *(x + w for _, x, w in line)]
        assert all(x >= end - 1e-3 for (_, x, _), end in zip(line, ends, strict=False))
        assert max(ends) <= left + width + 1e-3 <= float(picture.get("width", 0))


def test_mermaid() -> None:
    schedule = make("zero_bubble", 1, 1)
    assert as_mermaid(schedule, Durations(0.5, 1, 0.5)).splitlines() == [
        "---",
        "displayMode: compact",
        "---",
        "gantt",
        "    dateFormat x",
        "    axisFormat %s",
        "    title zero_bubble, ranks 1, stages 1, micro-batches 1",
        "    section rank 0",
        "    F0 :active, 0, 1000",
        "    B0 :done, 1000, 3000",
        "    W0 :crit, 3000, 4000",
    ]


def test_a_name_may_be_anything() -> None:
    made = make("gpipe", 1, 1)
    schedule = Schedule("a:b; %%{<&\n", 1, 1, 1, made.lists)
    assert "    title a b        , ranks 1," in as_mermaid(schedule)
    texts = [text.text for text in xml.fromstring(as_svg(schedule)).iter(f"{SVG}text")]
    assert texts[0] == title(schedule)


def test_a_drawing_that_no_terminal_shows_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"zero_bubble: its drawing would be [\d,]+ columns wide"):
        as_lines(make("zero_bubble", 1, 1), Durations(1, 1, 1e-10))
