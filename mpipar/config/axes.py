"""The mesh as a person writes it: ``dp=2,tp=2``."""

from __future__ import annotations

from mpipar.config.flags import did_you_mean
from mpipar.errors import UsageError

AXES = ("dp", "pp", "cp", "tp", "ep")  # of every mesh
KNOWN = (*AXES, "replica")  # of a command line; replicas have dp ranks each, over which ZeRO cuts


def parse_axes(text: str) -> dict[str, int]:
    """The axes and their sizes, in the order written; an empty text is no axes at all.

    >>> parse_axes("dp=2,tp=4")
    {'dp': 2, 'tp': 4}
    """
    axes: dict[str, int] = {}
    for part in text.split(",") if text.strip() else []:
        name, size = parse_axis(text, part.strip())
        if name in axes:
            raise UsageError(f"--mesh {text}: axis {name!r} is written twice; write it once")
        axes[name] = size
    return axes


def parse_axis(text: str, part: str) -> tuple[str, int]:
    name, equals, size = (piece.strip() for piece in part.partition("="))
    if not equals or not name:
        raise UsageError(f"--mesh {text}: {part!r} is no axis; write name=size, as dp=2,tp=2")
    if name not in KNOWN:
        close = did_you_mean(name, KNOWN)
        raise UsageError(f"--mesh {text}: unknown axis {name!r}{close or '.'} Axes: {', '.join(KNOWN)}")
    return name, parse_size(text, name, size)


def parse_size(text: str, name: str, size: str) -> int:
    try:
        number = int(size)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"--mesh {text}: the size of {name!r} is {size!r}; write a whole number, at least 1")
    return number
