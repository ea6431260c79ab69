"""Learning-rate schedules: functions of the step, counted from 0."""

from __future__ import annotations

from math import cos, pi


def warmup(step: int, steps: int) -> float:
    """The factor of a linear warm-up over `steps` steps: 1/steps at step 0, 1 from the last of them on."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def constant(step: int, *, lr: float, warmup_steps: int = 0) -> float:
    """`lr` after the warm-up.

    >>> [constant(step, lr=1.0, warmup_steps=2) for step in range(3)]
    [0.5, 1.0, 1.0]
    """
    return lr * warmup(step, warmup_steps)


def cosine(step: int, *, lr: float, steps: int, warmup_steps: int = 0, floor: float = 0.1) -> float:
    """Half a cosine from `lr` to `floor`·lr between the warm-up and the last step. Loshchilov & Hutter 2017.

    >>> [round(cosine(step, lr=1.0, steps=5), 3) for step in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup_steps:
        return lr * warmup(step, warmup_steps)
    done = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    return lr * (floor + (1 - floor) * (1 + cos(pi * done)) / 2)
