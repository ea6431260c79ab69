"""Time by operation and in communication."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from mpipar.mesh import Mesh
from mpipar.profile.machine import page_faults
from mpipar.profile.watch import COLLECTIVE, Event, Method, watch


@dataclass
class Row:
    """What happened under one name. `seconds` are without the collectives inside."""

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Sums:
    """Adds up events: pass it to `watch` as what sees."""

    rows: dict[tuple[str, str, str], Row] = field(
        default_factory=lambda: defaultdict(Row)
    )  # kind, name, axis
    _inside: list[tuple[float, float]] = field(default_factory=list)  # collectives: begin and seconds

    def __call__(self, event: Event) -> None:
        row = self.rows[event.kind, event.name, event.axis]
        row.calls += 1
        row.bytes += event.bytes
        seconds = event.end - event.begin
        if event.kind == COLLECTIVE:
            self._inside.append((event.begin, seconds))
        else:
            seconds -= sum(its for begin, its in self._inside if begin >= event.begin)
            self._inside.clear()
        row.seconds += seconds


def measured(
    step: Callable[[int], Any], steps: range, timed: int, mesh: Mesh, *methods: Method
) -> dict[str, Any]:
    """Runs `steps`: the last ones watched, `timed` ones before those timed alone, the first ones for warming up.

    All ranks begin a step together. Returns, of this rank, `seconds` and `faults` of each timed step, and of those that
    were watched `rows` as in `Sums`, with their numbers a step, and the mean `watched` seconds.
    """
    seconds, faults, watching, sums = [], [], 0.0, Sums()
    watched = steps[len(steps) - timed :]
    for number in steps[: len(steps) - timed]:
        mesh.world.barrier()
        before, begin = page_faults(), perf_counter()
        step(number)
        seconds.append(perf_counter() - begin)
        faults.append(page_faults() - before)
    for number in watched:
        mesh.world.barrier()
        with watch(mesh, sums, *methods):
            begin = perf_counter()
            step(number)
            watching += perf_counter() - begin
    rows = [
        {
            "kind": kind, "name": name, "axis": axis,
            "calls": row.calls / timed, "seconds": row.seconds / timed, "bytes": row.bytes / timed,
        }
        for (kind, name, axis), row in sums.rows.items()
    ]  # fmt: skip
    return {"seconds": seconds[-timed:], "faults": faults[-timed:], "rows": rows, "watched": watching / timed}
