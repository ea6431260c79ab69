"""Lines and, where a person watches a terminal, a live bar."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress


class Screen(Protocol):
    """Where progress is shown."""

    def line(self, text: str) -> None: ...
    def at(self, step: int) -> None: ...
    def close(self) -> None: ...


def open_screen(stream: TextIO, total_steps: int) -> Screen:
    """A live bar where `stream` is a terminal and rich is installed; otherwise plain lines."""
    if is_terminal(stream):
        try:
            return Bar(stream, total_steps)
        except ImportError:
            pass
    return Lines(stream)


class Lines:
    """Plain lines; nothing that would steer a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """Writes the text and its newline at once, so that the lines of several ranks never glue together."""
        encoding = self._stream.encoding or "utf-8"
        safe = text.encode(encoding, errors="backslashreplace").decode(encoding)
        self._stream.write(safe + "\n")
        self._stream.flush()

    def at(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class Bar:
    """Lines above a bar that moves with each step. Raises ImportError where rich is not installed."""

    def __init__(self, stream: TextIO, total_steps: int) -> None:
        self._console, self._progress = rich_bar(stream)
        self._task = self._progress.add_task("step", total=total_steps)
        self._progress.start()

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def at(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def close(self) -> None:
        self._progress.stop()


def rich_bar(stream: TextIO) -> tuple[Console, RichProgress]:
    from rich.console import Console  # noqa: PLC0415  (an optional dependency)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    console = Console(file=stream)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
    return console, Progress(*columns, console=console, transient=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person's terminal shows the stream.

    Open MPI's launcher gives ranks a pseudo-terminal of its own and copies it to wherever the launcher
    writes, be it a file: there it is the launcher's own output that counts.
    """
    if not stream.isatty():
        return False
    return "OMPI_COMM_WORLD_SIZE" not in os.environ or launcher_on_terminal(os.getpid())


def launcher_on_terminal(pid: int) -> bool:
    """Whether the first ancestor that writes elsewhere than `pid` writes to a terminal."""
    try:
        mine = output_of(pid)
        ancestor = parent_of(pid)
        while ancestor > 1 and output_of(ancestor) == mine:
            ancestor = parent_of(ancestor)
        return output_of(ancestor).startswith(("/dev/pts/", "/dev/tty"))
    except OSError:  # not ours to look at, or no /proc
        return False


def output_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/fd/1")


def parent_of(pid: int) -> int:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return int(after_name.split()[1])
