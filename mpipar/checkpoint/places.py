"""The directories of checkpoints: ``step-00001000`` each, found by looking and never by a pointer to the newest.

All of these are for one rank, and those that change something for the holder of the directory's lock.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from mpipar.checkpoint.index import INDEX
from mpipar.errors import CheckpointError
from mpipar.job.fault import fault
from mpipar.log import CHECKPOINTS

STEP = re.compile(r"(\.replaced-)?step-([0-9]{8,15})")
MAX_STEP = 10**15 - 1
TEMPORARY, REPLACED = ".tmp-", ".replaced-"


def below(path: Path) -> Path:
    """Where the checkpoints of a run are, where `path` is the directory of a run; else `path`."""
    path = path.expanduser()
    return path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def candidates(directory: Path) -> list[Path]:
    """The checkpoints below a directory, newest first, whatever their state; or the directory itself if it is one.

    A checkpoint that was set aside for another of the same step counts until that has taken its place.
    """
    if os.path.lexists(directory / INDEX) or STEP.fullmatch(directory.name):
        return [directory] if os.path.lexists(directory) else []
    if os.path.lexists(directory) and not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory, so it holds no checkpoint")
    found: dict[int, Path] = {}
    names = sorted(os.listdir(directory)) if directory.is_dir() else []  # ".replaced-" before "step-"
    for name in names:
        if match := STEP.fullmatch(name):
            found[int(match[2])] = directory / name
    return [found[step] for step in sorted(found, reverse=True)]


def clean(directory: Path) -> None:
    """Removes what a save that did not come to its end has left, and finishes a replacement. Raises OSError."""
    for path in list(directory.iterdir()):
        if path.name.startswith(REPLACED):
            final = directory / path.name.removeprefix(REPLACED)
            if not os.path.lexists(final):
                path.rename(final)
            else:
                discard(path)
        elif path.name.startswith(TEMPORARY):
            remove(path)


def new_temporary(directory: Path, step: int) -> Path:
    """An empty directory beside the place where the checkpoint will be. Raises OSError."""
    path = directory / f"{TEMPORARY}{step_name(step)}"
    path.mkdir()
    return path


def put_in_place(temporary: Path, final: Path) -> None:
    """The last act of a save: a rename, on the disk when this returns. Raises OSError."""
    replaced = final.with_name(REPLACED + final.name)
    if os.path.lexists(final):
        final.rename(replaced)
    temporary.rename(final)
    sync_directory(final.parent)
    if os.path.lexists(replaced):
        discard(replaced)


def discard(path: Path) -> None:
    """Removes a checkpoint. It gets another name first, so that none that is half removed looks like one."""
    aside = path.with_name(TEMPORARY + path.name)
    path.rename(aside)
    fault("save.in_purge")
    remove(aside)


def remove(path: Path) -> None:
    """A directory with all that is in it; of a link to one, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
