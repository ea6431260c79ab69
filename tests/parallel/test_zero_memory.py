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
# what the ranks share is counted by nobody; glibc would have taken a stock before the limit is set
COUNTED = {"OMP_NUM_THREADS": "1", "MPIPAR_SHARED_MEMORY": "0", "MALLOC_TOP_PAD_": "131072"}
ROUNDING = 1e-6  # relative, of losses in float32
LIMIT = 60_000_000  # of it the share of four ranks and a layer are 39 MB; on one rank all of it is 105 MB


def run(ranks: int, stages: str, cwd: Path, limit: int = 0) -> Finished:
    return launch(ranks, MEMORY, stages, str(limit), cwd=cwd, timeout=110, env=COUNTED)


def seen(finished: Finished) -> list[tuple[int, list[float]]]:
    """The peak and the losses of each stage."""
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = re.findall(r"^zero \d peak (\d+) losses (.*)$", finished.stdout, re.MULTILINE)
    return [(int(peak), [float(loss) for loss in losses.split()]) for peak, losses in lines]


def test_four_ranks_hold_a_quarter_each_and_one_layer(tmp_path: Path) -> None:
    ((one, losses),) = seen(run(1, "0", tmp_path))
    ((quarter, same),) = seen(run(4, "3", tmp_path))
    assert same == pytest.approx(losses, rel=ROUNDING)
    assert one / 4 < quarter <= one / 4 + LAYER


def test_a_model_that_one_rank_may_not_hold_trains_on_four(tmp_path: Path) -> None:
    alone = run(1, "0", tmp_path, LIMIT)
    assert alone.returncode != 0
    assert re.search("memory|allocation", (alone.stdout + alone.stderr).lower())
    ((_, losses),) = seen(run(4, "3", tmp_path, LIMIT))
    assert losses == pytest.approx(seen(run(1, "0", tmp_path))[0][1], rel=ROUNDING)
