"""Seeing operations, moves and collectives as they run. Outside `watch` nothing is measured and nothing costs anything.

Inside it each known operation has another `forward` in its place, which takes the time and wraps the vjps that it
returns; so backward is seen for what was run forward inside. Moves are seen alike, collectives by the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from mpipar.backend import Array
from mpipar.comm.ledger import Call
from mpipar.mesh import Mesh
from mpipar.ops.base import KNOWN, Op, Vjps
from mpipar.ops.unmade import Unmade
from mpipar.tensor.moves import TABLE, Move

FORWARD, BACKWARD, MOVE, COLLECTIVE, SPAN = "forward", "backward", "move", "collective", "span"


class Event(NamedTuple):
    """Something that ran on this rank; a collective inside an operation or a move is told before it."""

    kind: str
    name: str
    begin: float  # seconds of time.perf_counter
    end: float
    axis: str = ""  # of a collective: the label of its communicator
    bytes: int = 0  # that it sent from this rank
    site: str = ""  # file:line where it was written


Method: TypeAlias = tuple[Any, str]  # of an object, by its name
See: TypeAlias = Callable[[Event], object]
Clock: TypeAlias = Callable[[], float]


@contextmanager
def watch(mesh: Mesh, see: See, *methods: Method) -> Iterator[None]:
    """Inside the block `see` is told all that runs on this mesh, and each call of these methods of objects.

    On a card each operation is waited for.
    """
    clock = clock_of(mesh)
    plain = {op: op.forward for op in KNOWN}
    plain_run = Move.run
    for op in plain:
        object.__setattr__(op, "forward", timed(op, see, clock))
    for owner, name in methods:
        setattr(owner, name, timed_method(owner, name, see, clock))
    setattr(Move, "run", timed_move(see, clock))  # noqa: B010  (no assignment, for mypy)
    try:
        with mesh.ledger.told_to(lambda call: see(event_of(call, clock()))):
            yield
    finally:
        setattr(Move, "run", plain_run)  # noqa: B010
        for owner, name in methods:
            delattr(owner, name)  # what it has of its class is seen again
        for op, forward in plain.items():
            object.__setattr__(op, "forward", forward)


def clock_of(mesh: Mesh) -> Clock:
    """The time when the device has done all that it was asked to."""
    device = mesh.xp.device
    if device is None:
        return perf_counter

    def clock() -> float:
        device.synchronize()
        return perf_counter()

    return clock


def timed(op: Op, see: See, clock: Clock) -> Callable[..., tuple[Array, Vjps]]:
    """The operation's forward with the time told, its vjps as well."""
    plain, name = op.forward, op.name.strip("_")

    def forward(*args: Any, **static: Any) -> tuple[Array, Vjps]:
        begin = clock()
        local, vjps = plain(*args, **static)
        see(Event(FORWARD, name, begin, clock()))
        if callable(vjps):
            return local, timed_vjp(vjps, name, see, clock)
        return local, tuple([vjp and timed_vjp(vjp, name, see, clock) for vjp in vjps])

    return forward


def timed_vjp(vjp: Callable[[Array], Any], name: str, see: See, clock: Clock) -> Callable[[Array], Any]:
    """An unmade gradient is told when it is made."""

    def run(g: Array) -> Any:
        begin = clock()
        found = vjp(g)
        if isinstance(found, Unmade):
            return Timed(found, name, see, clock)
        see(Event(BACKWARD, name, begin, clock()))
        if isinstance(found, tuple):
            return tuple(
                [Timed(each, name, see, clock) if isinstance(each, Unmade) else each for each in found]
            )
        return found

    return run


@dataclass(frozen=True, slots=True, eq=False)
class Timed(Unmade):
    """An unmade gradient with the time told that it takes to make it, which is its operation's."""

    unmade: Unmade
    name: str
    see: See
    clock: Clock

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.unmade.shape

    @property
    def dtype(self) -> Any:
        return self.unmade.dtype

    def write_to(self, out: Array) -> None:
        self._told(self.unmade.write_to, out)

    def add_to(self, out: Array) -> None:
        self._told(self.unmade.add_to, out)

    def made(self) -> Array:
        return self._told(self.unmade.made)

    def _told(self, make: Callable[..., Any], *out: Array) -> Any:
        begin = self.clock()
        found = make(*out)
        self.see(Event(BACKWARD, self.name, begin, self.clock()))
        return found


def timed_method(owner: Any, name: str, see: See, clock: Clock) -> Callable[..., Any]:
    plain, title = getattr(owner, name), f"{type(owner).__name__}.{name}"

    def run(*args: Any, **kwargs: Any) -> Any:
        begin = clock()
        found = plain(*args, **kwargs)
        see(Event(SPAN, title, begin, clock()))
        return found

    return run


def timed_move(see: See, clock: Clock) -> Callable[[Move, Array], Array]:
    plain = Move.run

    def run(move: Move, x: Array) -> Array:
        if move.source == move.target or move.mesh.comm(*move.axes).size == 1:
            return x
        begin = clock()
        found = plain(move, x)
        see(Event(MOVE, TABLE[type(move.source), type(move.target)].__name__, begin, clock()))
        return found

    return run


def event_of(call: Call, end: float) -> Event:
    """Of a collective in the background: the time that this rank spent on it, ending when it ended."""
    return Event(COLLECTIVE, call.operation, end - call.seconds, end, call.label, call.bytes, call.site)
