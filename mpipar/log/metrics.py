"""metrics.jsonl: one JSON object a step."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from mpipar.errors import UsageError

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step measured, in the order in which it is written."""

    step: int  # steps done, this one included
    loss: float  # nats a byte, over the whole batch
    grad_norm: float  # before clipping
    lr: float
    tokens: int  # trained on so far, over all ranks
    tokens_per_s: float
    step_s: float
    comm_s: float  # of step_s, spent in communication by this rank
    comm_bytes: int  # sent by this rank in this step
    val_loss: float | None = None  # nats a byte, where it was measured


class Metrics:
    """A new metrics.jsonl, readable at any moment: a whole line a step, flushed. Used as a context manager.

    With ``enabled=False`` (ranks other than 0) it writes nothing. Raises UsageError where the file is there already.
    """

    def __init__(self, path: Path, enabled: bool = True) -> None:
        self._file: TextIO | None = None
        try:
            if enabled:
                self._file = path.open("x", encoding="utf-8", buffering=1)
        except FileExistsError:
            raise UsageError(f"{path} is there already: choose another --out") from None

    def write(self, record: StepRecord) -> None:
        if self._file is not None:
            self._file.write(as_json(record) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def as_json(record: StepRecord) -> str:
    """One line of JSON; a number that is not finite is null, as JSON has none."""
    fields = asdict(record)
    if record.val_loss is None:
        del fields["val_loss"]
    return json.dumps({name: finite(value) for name, value in fields.items()}, allow_nan=False)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
