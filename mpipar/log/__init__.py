"""What rank 0 says: a table of the weights, a line every few steps, metrics.jsonl, and where they go."""

from __future__ import annotations

from mpipar.log.metrics import METRICS, Metrics, StepRecord
from mpipar.log.out import CHECKPOINTS, CONFIG, check_out, make_out, write_config
from mpipar.log.progress import Progress
from mpipar.log.weights import WeightRow, weights_table
from mpipar.log.words import duration, human_bytes, readable

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "Metrics",
    "Progress",
    "StepRecord",
    "WeightRow",
    "check_out",
    "duration",
    "human_bytes",
    "make_out",
    "readable",
    "weights_table",
    "write_config",
]
