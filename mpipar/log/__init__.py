"""What rank 0 says: a table of the weights, a line every few steps, metrics.jsonl, and where they go."""

from __future__ import annotations

from mpipar.log.metrics import METRICS, Metrics, StepRecord
from mpipar.log.out import check_out, prepare_out
from mpipar.log.progress import Progress
from mpipar.log.weights import WeightRow, weights_table
from mpipar.log.words import duration, human_bytes, readable

__all__ = [
    "METRICS",
    "Metrics",
    "Progress",
    "StepRecord",
    "WeightRow",
    "check_out",
    "duration",
    "human_bytes",
    "prepare_out",
    "readable",
    "weights_table",
]
