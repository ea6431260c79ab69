"""``mpipar checkpoint ls | show | verify | merge PATH``: looking at checkpoints, in one process without MPI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpipar import checkpoint
from mpipar.checkpoint.places import below
from mpipar.cli.command import Command
from mpipar.config.flags import did_you_mean, flag
from mpipar.errors import UsageError
from mpipar.job.launcher import launched_size
from mpipar.log import human_bytes

WRITE = "write  mpipar checkpoint ls|show|verify|merge PATH"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The flags of `mpipar checkpoint`."""

    what: tuple[str, ...] = flag(
        (), "ls, show, verify or merge, and PATH: a checkpoint, a directory of several, or a run", alone=True
    )
    out: str = flag("", "merge: the safetensors file to write, with the weights alone")


def run(flags: Checkpoint) -> int:
    if launched_size() > 1:
        raise UsageError("checkpoint is the work of one process: start it without mpirun or srun")
    name, *paths = flags.what or [""]
    if name not in ACTIONS:
        close = did_you_mean(name, list(ACTIONS))
        raise UsageError(
            f"checkpoint {name!r} is unknown{close}" if close else f"checkpoint needs a verb: {WRITE}"
        )
    if len(paths) != 1:
        raise UsageError(f"checkpoint {name} takes one PATH, not {len(paths)}: {WRITE}")
    if bool(flags.out) != (name == "merge"):
        raise UsageError("--out FILE belongs to checkpoint merge, which needs it")
    return ACTIONS[name](below(Path(paths[0])), flags.out)


def ls(path: Path, out: str) -> int:
    print(checkpoint.ls(path))
    return 0


def show(path: Path, out: str) -> int:
    print(checkpoint.show(path))
    return 0


def verify(path: Path, out: str) -> int:
    """1 where something is wrong."""
    problems = checkpoint.verify(path)
    print("\n".join(problems) or f"{path}: every byte is as it was written")
    return 1 if problems else 0


def merge(path: Path, out: str) -> int:
    print(f"{out}: {human_bytes(checkpoint.merge(path, out))}")
    return 0


ACTIONS: dict[str, Callable[[Path, str], int]] = {"ls": ls, "show": show, "verify": verify, "merge": merge}
COMMAND = Command("lists, shows, checks or merges checkpoints", Checkpoint, run)
