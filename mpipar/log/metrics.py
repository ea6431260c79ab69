"""metrics.jsonl: one JSON object a step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

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
    loss_scale: float | None = (
        None  # float16: for the next step; lower where this one overflowed and was skipped
    )


class Metrics:
    """metrics.jsonl, readable at any moment: a whole line a step, written at once. Used as a context manager.

    A new file, or with `after` one that goes on: its lines up to that step stay, the rest is cut off. With
    ``enabled=False`` (ranks other than 0) it writes nothing. Raises UsageError where a new file is there already, and
    where a line cannot be written.
    """

    def __init__(self, path: Path, enabled: bool = True, *, after: int | None = None) -> None:
        self._path = path
        self._file: FileIO | None = None
        if not enabled:
            return
        with self._reported():
            if after is not None and path.exists():
                os.truncate(path, length_to(path, after))
            self._file = path.open("xb" if after is None else "ab", buffering=0)

    def write(self, record: StepRecord) -> None:
        if self._file is not None:
            with self._reported():
                rest = memoryview(f"{as_json(record)}\n".encode())
                while rest:
                    rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """What was written is on the disk when this returns: a checkpoint must not be ahead of its lines."""
        if self._file is not None:
            with self._reported():
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise UsageError(f"{self._path} is there already: choose another --out") from None
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error.strerror}") from None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def length_to(path: Path, step: int) -> int:
    """The bytes of the whole lines up to a step; a line that is torn or no record ends them."""
    length = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not is_up_to(line, step):
                break
            length += len(line)
    return length


def is_up_to(line: bytes, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def as_json(record: StepRecord) -> str:
    """One line of JSON; a number that is not finite is null, as JSON has none."""
    fields = asdict(record)
    for name in ("val_loss", "loss_scale"):
        if fields[name] is None:
            del fields[name]
    return json.dumps({name: finite(value) for name, value in fields.items()}, allow_nan=False)


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
