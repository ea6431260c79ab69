"""Events of all ranks → the events of a Chrome trace, with the waiting in collectives found.

The format: "Trace Event Format", Google 2016. An event "X" is complete: it has a begin and a duration, in µs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from mpipar.profile.watch import COLLECTIVE, Event

# Those in which every rank needs something of every other one: they wait for the last that comes.
ALL_WAIT = ("allreduce", "reduce_scatter", "allgather", "alltoall", "alltoallv", "barrier")


def chrome_events(gathered: Sequence[dict[str, Any]], offsets: Sequence[float]) -> list[dict[str, Any]]:
    """`gathered` has for each rank its `events`, `coords` by axis, `host`, and how many events it `dropped`."""
    ranks = [
        [at_zero_of_first(Event(*fields), ahead) for fields in its["events"]]
        for its, ahead in zip(gathered, offsets, strict=True)
    ]
    start = min((event.begin for events in ranks for event in events), default=0.0)
    last = last_arrivals([(events, its["coords"]) for events, its in zip(ranks, gathered, strict=True)])
    found = []
    for rank, (events, its) in enumerate(zip(ranks, gathered, strict=True)):
        found += names(rank, its)
        for event, key in zip(events, keys(events, its["coords"]), strict=True):
            found.append(complete(rank, event, start))
            come = min(last.get(key, event.begin), event.end)
            if come > event.begin:
                found.append(complete(rank, Event("waiting", "waiting", event.begin, come), start))
    return found


def at_zero_of_first(event: Event, ahead: float) -> Event:
    """With the times of rank 0's clock."""
    return event._replace(begin=event.begin - ahead, end=event.end - ahead)


def last_arrivals(ranks: Sequence[tuple[list[Event], dict[str, int]]]) -> dict[Any, float]:
    """When the last rank came, of each collective in which all wait."""
    last: dict[Any, float] = {}
    for events, coords in ranks:
        for event, key in zip(events, keys(events, coords), strict=True):
            if key is not None:
                last[key] = max(event.begin, last.get(key, event.begin))
    return last


def keys(events: Sequence[Event], coords: dict[str, int]) -> Iterator[Any]:
    """What an event has in common with those of the other ranks of its collective; None where nobody waits.

    Ranks that share a communicator make the same calls from the same lines in the same order.
    """
    numbers: dict[Any, Iterator[int]] = defaultdict(count)
    for event in events:
        if event.kind != COLLECTIVE or event.name not in ALL_WAIT:
            yield None
            continue
        axes = list(coords) if event.axis == "mesh" else event.axis.split(",")
        group = tuple(place for axis, place in coords.items() if axis not in axes)
        call = (event.axis, group, event.name, event.site)
        yield (*call, next(numbers[call]))


def names(rank: int, its: dict[str, Any]) -> list[dict[str, Any]]:
    """What the viewer calls the rank, and its place in the list."""
    place = " ".join(f"{axis}={number}" for axis, number in its["coords"].items())
    dropped = f", {its['dropped']:,} events left out" if its["dropped"] else ""
    title = f"rank {rank} ({place}) on {its['host']}{dropped}"
    return [
        {"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": title}},
        {"ph": "M", "name": "process_sort_index", "pid": rank, "tid": 0, "args": {"sort_index": rank}},
    ]


def complete(rank: int, event: Event, start: float) -> dict[str, Any]:
    """Times are whole ns, each rounded by itself: what is inside another event stays inside."""
    begin, end = (int(1e9 * (time - start)) for time in (event.begin, event.end))
    found = {"ph": "X", "name": event.name, "cat": event.kind, "pid": rank, "tid": 0}
    found |= {"ts": begin / 1000, "dur": (end - begin) / 1000}
    if event.kind == COLLECTIVE:
        found["args"] = {"axis": event.axis, "bytes": event.bytes, "site": event.site}
    return found
