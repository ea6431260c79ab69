"""The table of the weights: what there is, where it lies, and what it costs this rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from mpipar.log.words import human_bytes

HEAD = ("weight", "shape", "placement", "bytes here")


class WeightRow(NamedTuple):
    """One weight; the shape is the global one, the bytes are those of this rank's piece."""

    name: str
    shape: tuple[int, ...]
    placement: str
    bytes: int


def weights_table(rows: Iterable[WeightRow]) -> str:
    """A line a weight, and the totals: values over all ranks, bytes on this one.

    >>> print(weights_table([WeightRow("up", (16, 64), "tp=Shard(1)", 2048)]))
    weight            shape     placement    bytes here
    up                (16, 64)  tp=Shard(1)      2.0 kB
    total: 1 weights  1,024                      2.0 kB
    """
    rows = list(rows)
    lines = [(row.name, shape_text(row.shape), row.placement, human_bytes(row.bytes)) for row in rows]
    return columns([HEAD, *lines, totals(rows)])


def totals(rows: Sequence[WeightRow]) -> tuple[str, str, str, str]:
    values = sum(prod(row.shape) for row in rows)
    held = sum(row.bytes for row in rows)
    return f"total: {len(rows)} weights", f"{values:,}", "", human_bytes(held)


def shape_text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def columns(lines: Sequence[tuple[str, str, str, str]]) -> str:
    """Three columns to the left, the numbers to the right."""
    name, shape, placement, size = (max(len(cell) for cell in column) for column in zip(*lines, strict=True))
    return "\n".join(f"{a:<{name}}  {b:<{shape}}  {c:<{placement}}  {d:>{size}}" for a, b, c, d in lines)
