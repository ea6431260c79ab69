"""Starting train.py from a test as a user would from a shell, and reading what it leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpipar.testing import Finished, launch

TRAIN = Path(__file__).parents[1] / "train.py"
WORDS = (
    "a gradient has the dual placement: replicate and partial, shard and shard;",
    "sum",
    "\n",
    "rank",
    "of",
)


@dataclass(frozen=True)
class Run:
    """How a run ended, what it printed, and where its results are."""

    finished: Finished
    out: Path

    @property
    def lines(self) -> list[str]:
        return self.finished.stdout.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl."""
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def numbers(self, key: str) -> list[float]:
        """One field of each object that has it."""
        return [record[key] for record in self.records if key in record]


def train(ranks: int, flags: str, out: Path, data: Path) -> Run:
    """A run that must succeed; `ranks` 0: without mpirun."""
    run = Run(attempt(ranks, [*flags.split(), "--data", str(data), "--out", str(out)], out.parent), out)
    assert run.finished.returncode == 0, run.finished.stdout + run.finished.stderr
    return run


def attempt(ranks: int, flags: list[str], cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
    """A run with these flags and no others, however it ends."""
    one_thread = {"OMP_NUM_THREADS": "1"}  # matrices this small gain nothing by more
    return launch(ranks, TRAIN, *flags, cwd=cwd, timeout=120, env=one_thread | dict(env or {}))


def write_text(path: Path, size: int = 40_000) -> Path:
    """A file of words, the same each time."""
    draw = random.Random(0)
    text = " ".join(draw.choice(WORDS) for _ in range(size // 4))
    path.write_text(text[:size])
    return path


def write_noise(path: Path, size: int = 1 << 16) -> Path:
    """A file of random bytes, the same each time."""
    path.write_bytes(random.Random(0).randbytes(size))
    return path
