"""A Chrome trace of a run's first steps, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process of it is a rank. Each collective has its axis and bytes; the part of it that passed before the last rank had
come is marked as waiting. The clocks of all ranks are set to that of rank 0.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.mesh import Mesh
from mpipar.profile.clocks import offsets
from mpipar.profile.events import chrome_events
from mpipar.profile.watch import SPAN, Event, Method, watch

MOST = 1_000_000  # events of a rank; what comes after is left out, and the trace says so
BEGINNING = '{"traceEvents"'


def check_trace(path: str) -> None:
    """Raises UsageError where a trace could not be written to `path`; writes nothing. "" is no trace."""
    if not path:
        return
    file = Path(path).expanduser()
    folder = file.parent
    if file.is_dir():
        raise UsageError(
            f"--trace {path} is a directory: name a file in it, as {path.rstrip('/')}/trace.json"
        )
    if not folder.is_dir():
        raise UsageError(f"--trace {path}: there is no directory {folder}: make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--trace {path}: {folder} is not writable: name a file elsewhere")
    if os.path.lexists(file) and not is_trace(file):
        raise UsageError(f"--trace {path} exists and is no trace: name another file")


def is_trace(file: Path) -> bool:
    """Whether it begins as ours do: such a file may be written over."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return file.is_file() and opened.read(len(BEGINNING)) == BEGINNING
    except OSError:
        return False


class Trace:
    """Records the first `steps` steps of a run; then rank 0 gathers them and writes the file. Without a path: nothing.

    ``with Trace(path, steps, mesh, (optimizer, "step")) as trace`` around the loop, which names methods to be seen
    beside the operations; in it ``trace.step(n)`` where step n begins. Collective at the end of the last step that is
    recorded, or of the block; after an error nothing is written.
    """

    def __init__(self, path: str, steps: int, mesh: Mesh, *methods: Method) -> None:
        self._path, self._mesh, self._methods = path, mesh, methods
        self._left = steps if path else 0
        self._events: list[Event] = []
        self._dropped = 0
        self._now = ("", 0.0)  # the step under way: its name, when it began
        self._watching = ExitStack()

    def step(self, number: int) -> None:
        """A step begins, and the one before ends."""
        if not self._path:
            return
        self._end_step()
        if self._left == 0:
            self._write()
            return
        if not self._now[0]:
            self._watching.enter_context(watch(self._mesh, self._see, *self._methods))
        self._left -= 1
        self._now = (f"step {number}", perf_counter())

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._path:
            self._end_step()
            self._write()
        self._watching.close()

    def _see(self, event: Event) -> None:
        if len(self._events) < MOST:
            self._events.append(event)
        else:
            self._dropped += 1

    def _end_step(self) -> None:
        name, begin = self._now
        if name:
            self._see(Event(SPAN, name, begin, perf_counter()))

    def _write(self) -> None:
        """Collective."""
        self._watching.close()
        ranks, path = world(), Path(self._path).expanduser()
        self._path = ""
        mine = {
            "host": os.uname().nodename, "dropped": self._dropped, "events": self._events,
            "coords": dict(zip(self._mesh.grid.axes, self._mesh.coords, strict=True)),
        }  # fmt: skip
        apart = offsets(ranks)
        gathered = gather_json(mine)
        self._events = []
        if ranks.rank == 0:
            write_whole(path, as_json(chrome_events(gathered, apart)))


def write_whole(path: Path, text: str) -> None:
    """By a rename, so that the file is never half there. Raises UsageError where it cannot be written."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.rename(path)
    except OSError as error:
        raise UsageError(f"--trace {path} cannot be written: {error.strerror or error}") from None


def as_json(events: list[dict[str, Any]]) -> str:
    """A line an event, for whoever looks with an editor."""
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    return f'{BEGINNING}: [\n{lines}\n], "displayTimeUnit": "ms"}}\n'


def gather_json(mine: Any) -> list[Any]:
    """What all ranks have, on rank 0; nothing elsewhere. Its size is no burden to the other ranks."""
    ranks = world()
    data = json.dumps(mine).encode()
    sizes = ranks.allgather_object(len(data))
    xp = ranks.xp
    joined = ranks.gather(xp.cast(xp.from_bytes(data, (len(data),)), "uint8"), 0, 0, sizes)
    if joined is None:
        return []
    text, found, start = xp.to_host(joined).tobytes(), [], 0
    for size in sizes:
        found.append(json.loads(text[start : start + size]))
        start += size
    return found
