"""A line every few steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from mpipar.log.metrics import StepRecord
from mpipar.log.terminal import Screen, open_screen
from mpipar.log.words import duration


class Progress:
    """What a run says: a line every `log_every` steps, at the last one, and with each validation.

    Lines go to `stream` (default: stdout); where that is a terminal and rich is installed, a live bar stands
    below them. With ``enabled=False`` (ranks other than 0) it says nothing. `limit` tells the seconds that the job has
    left, None where it has all it wants. Used as a context manager.
    """

    def __init__(
        self,
        total_steps: int,
        stream: TextIO | None = None,
        log_every: int = 10,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        limit: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._total, self._log_every, self._clock, self._limit = total_steps, log_every, clock, limit
        self._screen: Screen | None = open_screen(stream or sys.stdout, total_steps) if enabled else None
        self._begin = clock()
        self._seen = 0
        self._tokens = self._seconds = 0.0  # since the last line

    def say(self, text: str) -> None:
        """Writes a text of one or more lines, above the bar where there is one."""
        if self._screen is not None:
            self._screen.line(text)

    def step(self, record: StepRecord) -> None:
        """Counts a step and writes its line where one is due."""
        if self._screen is None:
            return
        self._seen += 1
        self._tokens += record.tokens_per_s * record.step_s
        self._seconds += record.step_s
        self._screen.at(record.step)
        if self._due(record):
            self._screen.line(self._line(record))
            self._tokens = self._seconds = 0.0

    def close(self) -> None:
        """Takes the bar away; the lines stay."""
        if self._screen is not None:
            self._screen.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _due(self, record: StepRecord) -> bool:
        return record.step % self._log_every == 0 or record.step == self._total or record.val_loss is not None

    def _line(self, record: StepRecord) -> str:
        step = f"{record.step:>{len(str(self._total))}}/{self._total}"
        parts = [
            f"step {step}",
            f"loss {record.loss:.4f}",
            f"grad {record.grad_norm:.3f}",
            f"lr {record.lr:.2e}",
            f"{self._tokens / self._seconds if self._seconds else 0:,.0f} tokens/s",
            f"{duration(self._left(record))} left",
        ]
        if (limit := self._limit()) is not None:
            parts[-1] += f" (limit in {duration(limit)})"
        if record.val_loss is not None:
            parts.append(f"validation loss {record.val_loss:.4f}")
        return "  ".join(parts)

    def _left(self, record: StepRecord) -> float:
        """Seconds to the end at the pace so far, validations included."""
        return (self._total - record.step) * (self._clock() - self._begin) / self._seen
