"""The command `mpipar` (and ``python -m mpipar``): one file a sub-command. Importing them never starts MPI;
`mpipar doctor` does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mpipar.checkpoint.index import versions
from mpipar.cli import bench, cancel, checkpoint, doctor, jobs, logs, show, submit, tokenize
from mpipar.cli.command import Command
from mpipar.config.flags import did_you_mean, options, read, usage, wants_help
from mpipar.errors import UsageError
from mpipar.job.launcher import launched_size

__all__ = ["COMMANDS", "main"]

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell says it

COMMANDS = {
    "bench": bench.COMMAND,
    "cancel": cancel.COMMAND,
    "checkpoint": checkpoint.COMMAND,
    "doctor": doctor.COMMAND,
    "jobs": jobs.COMMAND,
    "logs": logs.COMMAND,
    "show": show.COMMAND,
    "submit": submit.COMMAND,
    "tokenize": tokenize.COMMAND,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line says; returns the exit code: 2 after a message about bad usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that nothing is written at the end
        return CLOSED_PIPE
    except UsageError as error:
        if launched_size() > 1:
            raise  # the hooks of mpipar.job say it once for all ranks
        print(f"mpipar: {error}", file=sys.stderr)
        return 2


def run(words: Sequence[str]) -> int:
    name, *rest = words or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
    elif name == "--version":
        print(f"mpipar {versions()['mpipar']}")
    elif name not in COMMANDS:
        raise UsageError(
            f"unknown command {name!r}{did_you_mean(name, list(COMMANDS)) or '; see mpipar --help'}"
        )
    elif wants_help(rest):
        print(help_of(name, COMMANDS[name]))
    else:
        command = COMMANDS[name]
        return command.run(command.read(rest) if command.read else read(command.flags, rest)) or 0
    return 0


def help_of(name: str, command: Command) -> str:
    """The text of ``mpipar NAME --help``."""
    return f"{command.meaning}\n\n{usage(options(command.flags), f'mpipar {name}')}{command.more}"


def overview() -> str:
    """The text of ``mpipar --help``: a line a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.meaning}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["mpipar COMMAND ...", "", *lines, "", "mpipar COMMAND --help lists the flags of a command."]
    )
