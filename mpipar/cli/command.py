"""What a sub-command is: a line of help, a dataclass of flags, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpipar.errors import UsageError
from mpipar.job.launcher import launched_size


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


def refuse_ranks(name: str) -> None:
    """Raises UsageError where a launcher has started several of us."""
    if launched_size() > 1:
        raise UsageError(f"{name} is the work of one process: start it without mpirun or srun")
