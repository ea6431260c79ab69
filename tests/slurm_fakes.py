"""SLURM's commands as small programs on PATH, written by a test; and a file for `mpipar submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

SLURM = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun", "mpirun", "apptainer", "module")


def program(directory: Path, name: str, body: str) -> Path:
    """A program that notes its words, an entry a call, in NAME.calls, and then runs the lines of `body`."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    note = f'printf "%s\\0" "$@" >> "{directory}/{name}.calls"; printf "\\n\\0" >> "{directory}/{name}.calls"'
    path.write_text(f"#!/bin/bash\n{note}\n{body}\n")
    path.chmod(0o755)
    return path


def calls(directory: Path, name: str) -> list[list[str]]:
    """The words of each call of a program."""
    path = directory / f"{name}.calls"
    text = path.read_text() if path.exists() else ""
    return [call.split("\0")[:-1] for call in text.split("\n\0")[:-1]]


def on_path(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """First the programs of a test, then those of the system: none of this machine's SLURM."""
    monkeypatch.setenv("PATH", f"{directory}:/usr/local/bin:/usr/bin:/bin")
    for name in SLURM:
        if not (directory / name).exists():
            program(directory, name, f'echo "{name} was not to be called" >&2; exit 97')


def write(path: Path, run: dict[str, Any] | None = None, slurm: dict[str, Any] | None = None) -> str:
    """A file with the two tables; returns its name."""
    path.write_text(tomli_w.dumps({"run": run or {}, "slurm": slurm or {}}), encoding="utf-8")
    return str(path)
