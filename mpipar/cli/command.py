"""What a sub-command is: a line of help, a dataclass of flags, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A sub-command of `mpipar`. `run` takes an instance of `flags`, raises UsageError for bad usage, and returns
    the exit code (None: 0).
    """

    meaning: str
    flags: type[Any]
    run: Callable[[Any], int | None]
