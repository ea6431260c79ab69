"""ZeRO 3 holds its share and one layer: by count, and under a limit that one rank does not fit into.

A failure prints the peak of rank 0 in bytes; `zero_memory.py` says what is counted.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from zero_memory import LAYER

from mpipar.testing import Finished, launch

pytestmark = pytest.mark.launches

MEMORY = Path(__file__).parents[1] / "zero_memory.py"
LIMIT = 60_000_000  # of it the share of four ranks and a layer are 39 MB; on one rank all of it is 105 MB


def run(ranks: int, zero: int, cwd: Path, limit: int = 0) -> Finished:
    return launch(ranks, MEMORY, str(zero), str(limit), cwd=cwd, timeout=110, env={"OMP_NUM_THREADS": "1"})


def seen(finished: Finished) -> tuple[int, list[str]]:
    """The peak and the losses."""
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (peak, losses) = re.findall(r"^peak (\d+) losses (.*)$", finished.stdout, re.MULTILINE)[0]
    return int(peak), losses.split()


def test_four_ranks_hold_a_quarter_each_and_one_layer(tmp_path: Path) -> None:
    one, one_losses = seen(run(1, 0, tmp_path))
    quarter, losses = seen(run(4, 3, tmp_path))
    assert losses == one_losses
    assert one / 4 < quarter <= one / 4 + LAYER


def test_each_stage_holds_less(tmp_path: Path) -> None:
    peaks = [seen(run(4, zero, tmp_path))[0] for zero in (0, 1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4


def test_a_model_that_one_rank_may_not_hold_trains_on_four(tmp_path: Path) -> None:
    alone = run(1, 0, tmp_path, LIMIT)
    assert alone.returncode != 0
    assert "memory" in (alone.stdout + alone.stderr).lower()
    _, losses = seen(run(4, 3, tmp_path, LIMIT))
    assert losses == seen(run(1, 0, tmp_path))[1]
