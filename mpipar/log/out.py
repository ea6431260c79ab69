"""The directory of a run's results: checked first without touching anything, made when all else is right."""

from __future__ import annotations

import json
import os
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from mpipar.errors import UsageError
from mpipar.log.metrics import METRICS

RUNS = "runs"
CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
RUN = "run.json"


def check_out(out: str, *, again: bool = False) -> None:
    """Raises UsageError where results could not be written below `out`; writes nothing itself.

    `again`: the directory may hold a run, which goes on.
    """
    path = directory(out)
    try:
        if not again:
            refuse_occupied(out, path)
        refuse_unwritable(out, path)
    except OSError as error:
        raise UsageError(unwritable(out, path, error.strerror or str(error))) from None


def make_out(out: str, today: datetime) -> Path:
    """Makes the directory and returns it: `out`, or without one a new ``runs/2026-11-24-193012``.

    Raises UsageError where it cannot be made.
    """
    try:
        return made(out, today)
    except OSError as error:
        raise UsageError(unwritable(out, directory(out), error.strerror or str(error))) from None


def write_config(out: Path, text: str) -> None:
    """Writes config.toml by a rename: it is never half there. Raises UsageError where it cannot be written."""
    new = out / f".{CONFIG}"
    try:
        new.write_text(text, encoding="utf-8")
        new.rename(out / CONFIG)
    except OSError as error:
        raise UsageError(unwritable(str(out), out, error.strerror or str(error))) from None


def write_start(out: Path, start: dict[str, Any]) -> None:
    """Adds a start of the run to run.json, by a rename as well. Raises UsageError where it cannot be written."""
    try:
        told = json.loads((out / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = []
    new = out / f".{RUN}"
    try:
        text = json.dumps([*(told if isinstance(told, list) else []), start], indent=1, ensure_ascii=False)
        new.write_text(f"{text}\n", encoding="utf-8", errors="replace")
        new.rename(out / RUN)
    except OSError as error:
        raise UsageError(unwritable(str(out), out, error.strerror or str(error))) from None


def made(out: str, today: datetime) -> Path:
    path = directory(out)
    if not out:
        return new_directory(path / f"{today:%Y-%m-%d-%H%M%S}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def directory(out: str) -> Path:
    """Where results go: `out` itself, or the directory that collects the dated ones."""
    return Path(os.path.expanduser(out or RUNS))


def new_directory(wanted: Path) -> Path:
    """Makes `wanted`, or where that is taken the first free one of ``wanted-2``, ``wanted-3`` …"""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() does not end")


def refuse_occupied(out: str, path: Path) -> None:
    for name in (METRICS, CONFIG, CHECKPOINTS):
        if out and os.path.lexists(path / name):
            raise UsageError(f"--out {out} holds the {name} of another run: choose another directory")


def refuse_unwritable(out: str, path: Path) -> None:
    nearest = nearest_existing(path)
    if not nearest.is_dir():
        raise UsageError(unwritable(out, path, f"{nearest} is not a directory"))
    if not os.access(nearest, os.W_OK | os.X_OK):  # true of root on a read-only mount too
        raise UsageError(unwritable(out, path, f"{nearest} is not writable"))


def nearest_existing(path: Path) -> Path:
    """The path itself or the first of its parents that is there, be it a dangling link."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))


def unwritable(out: str, path: Path, reason: str) -> str:
    said = f"--out {out}" if out else f"the default --out {path}"
    return f"{said} cannot be written: {reason}; write --out with a directory that can"
