"""The medians of a run as bars, with the quartiles as lines; by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(sizes: dict[str, Any], path: Path) -> None:
    """A row of pictures for each size, one a contest; torch is grey, mpipar blue."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (needed where a picture is asked for)

    columns = max(len(size["contests"]) for size in sizes.values())
    figure = Figure(figsize=(4 * columns, 3 * len(sizes)), layout="constrained")
    grid = figure.subplots(len(sizes), columns, squeeze=False)
    for row, (name, size) in zip(grid, sizes.items(), strict=True):
        for axes in row[len(size["contests"]) :]:
            axes.set_visible(False)
        for axes, (contest, found) in zip(row, size["contests"].items(), strict=False):
            bars(axes, found["competitors"])
            axes.set_title(f"{name}: {contest.replace('_', ' ')}")
    figure.savefig(path)


def bars(axes: Any, competitors: dict[str, Any]) -> None:
    times = [its["ms"] for its in competitors.values()]
    places, middles = range(len(times), 0, -1), [ms["median"] for ms in times]
    errors = [[ms["median"] - ms["low"] for ms in times], [ms["high"] - ms["median"] for ms in times]]
    colours = ["tab:blue" if name == "mpipar" else "lightgray" for name in competitors]
    axes.barh(places, middles, xerr=errors, color=colours, ecolor="black", capsize=3)
    axes.set_yticks(list(places), list(competitors))
    axes.set_xlabel("ms a step")
