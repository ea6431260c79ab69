"""A clock for a schedule as it runs: its time passes by the parts of the work and travels with the messages.

So what a step takes is exact, whatever the machine does meanwhile. (Ranks that really sleep are woken late, on a
machine with other guests by more than a tenth of a bubble.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpipar.comm.steps import Receive, Send, Step


class Clock:
    """Of one rank: the time, and how much of it the rank has worked."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0

    def work(self, duration: float) -> None:
        self.now += duration
        self.worked += duration

    def wait_until(self, time: float) -> None:
        self.now = max(self.now, time)


class Clocked:
    """A transport whose messages say when they were sent; a receive waits until then, and for their way.

    Each message is followed by its time: another one, of the same tag, over a communicator of its own. A send must not
    wait, so it is started; any other step is refused, as its time is not known.
    """

    def __init__(self, inner: Any, clock: Clock, travel: float) -> None:
        self._inner, self._times, self._clock, self._travel = inner, inner.duplicate(), clock, travel
        self._sent: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start(self, step: Step) -> Any:
        assert isinstance(step, Send), step
        time = np.array([self._clock.now]).view("uint8")
        self._sent.append(self._times.start(Send(time, step.to, step.tag)))
        return self._inner.start(step)

    def run(self, step: Step) -> None:
        assert isinstance(step, Receive), step
        self._inner.run(step)
        sent = np.empty(1)
        self._times.run(Receive(sent.view("uint8"), step.source, step.tag))
        self._clock.wait_until(sent.item() + self._travel)

    def close(self) -> None:
        for request in self._sent:
            request.wait()
