"""The time that a run has: SLURM's limit, or one from the command line, and when it is time to save and end.

A job that is killed at its limit loses what it did since its last checkpoint. The signal that a batch script may ask
for comes at a time that was guessed before the first step; here the margin is learnt: the longest step and save so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpipar.config.times import BY_SLURM, NO_LIMIT, seconds
from mpipar.job import slurm

GRACE = 5.0  # seconds that the processes have to end
UNKNOWN_SAVE = 60.0  # seconds, until one was measured; of a short limit a tenth


class TimeLimit:
    """The end of the run by the clock of one rank, and how long steps and saves take there. Without an end: no limit.

    `is_near` is asked once a step: it measures the steps. The first of them is left out, for it holds what happens
    once. A save is measured in `saving`.
    """

    def __init__(self, end: float | None = None, clock: Callable[[], float] = time.time) -> None:
        self._end, self._clock = end, clock
        self._save_guess = min(UNKNOWN_SAVE, 0.0 if end is None else max(0.0, end - clock()) / 10)
        self._longest_step = self._longest_save = 0.0
        self._asked: float | None = None  # when, the last time

    @classmethod
    def told(cls, text: str, known: bool) -> TimeLimit:
        """By --time-limit: SLURM's (auto), none, or so long from now. `known`: this rank is the one that asks."""
        if not known or text == NO_LIMIT:
            return cls()
        return cls(slurm.end_of_job() if text == BY_SLURM else time.time() + seconds(text))

    def left(self) -> float | None:
        """Seconds to the end; None without one."""
        return None if self._end is None else self._end - self._clock()

    @property
    def margin(self) -> float:
        """Seconds that one more step and a save may take: twice the longest of each."""
        return 2 * self._longest_step + 2 * (self._longest_save or self._save_guess) + GRACE

    def is_near(self) -> bool:
        """Whether another step could be one too many. Once a step, after it."""
        now = self._clock()
        if self._asked is not None:
            self._longest_step = max(self._longest_step, now - self._asked)
        self._asked = now
        return self._end is not None and self._end - now < self.margin

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save that is written when it returns: it is no part of a step."""
        begin = self._clock()
        yield
        now = self._clock()
        self._longest_save = max(self._longest_save, now - begin)
        self._asked = None if self._asked is None else self._asked + now - begin
