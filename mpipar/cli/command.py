"""What a sub-command is: a line of help, a dataclass of flags, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A sub-command of `mpipar`. `run` takes an instance of `flags`, raises UsageError for bad usage, and returns
    the exit code (None: 0). Where the flags are not all that it takes, `read` gives `run` what the words say, and the
    help ends with `more`.
    """

    meaning: str
    flags: type[Any]
    run: Callable[[Any], int | None]
    read: Callable[[Sequence[str]], Any] | None = None
    more: str = ""
