"""Schedules at their edges. A failure shows a learning rate of 0, one above `lr`, or a jump."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi

import pytest

from mpipar.optim import constant, cosine


def rates(steps: int, warmup: int, **options: float) -> list[float]:
    return [cosine(step, lr=2.0, steps=steps, warmup_steps=warmup, **options) for step in range(steps)]


def test_warmup_climbs_in_even_steps_to_the_top() -> None:
    assert rates(100, 4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert [constant(step, lr=2.0, warmup_steps=4) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_without_warmup_the_first_step_is_the_highest() -> None:
    assert rates(10, 0)[0] == 2.0
    assert constant(0, lr=2.0) == 2.0


def test_the_last_step_is_the_floor() -> None:
    assert rates(10, 3)[-1] == pytest.approx(0.2)
    assert rates(10, 3, floor=0.0)[-1] == pytest.approx(0.0)
    assert rates(10, 3, floor=1.0)[3:] == [2.0] * 7


def test_the_middle_is_half_way() -> None:
    assert rates(11, 0)[5] == pytest.approx((2.0 + 0.2) / 2)
    assert rates(13, 2)[4] == pytest.approx(0.2 + 1.8 * (1 + cos(pi * 2 / 10)) / 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0, 1, 2, 9, 10, 11, 100])
def test_every_rate_is_above_zero_and_at_most_lr_and_there_is_one_top(steps: int, warmup: int) -> None:
    found = rates(steps, warmup)
    assert all(0 < rate <= 2.0 for rate in found)
    falling = [after < before for before, after in pairwise(found)]
    assert falling == sorted(falling)  # once it falls it goes on
    assert (max(found) == 2.0) == (warmup <= steps)


def test_one_step_takes_the_whole_rate() -> None:
    assert rates(1, 0) == [2.0]
    assert rates(1, 1) == [2.0]


def test_a_warmup_longer_than_the_run_only_climbs() -> None:
    assert rates(3, 10) == pytest.approx([0.2, 0.4, 0.6])


def test_after_the_last_step_the_floor_stays() -> None:
    assert [cosine(step, lr=2.0, steps=10) for step in (10, 11, 1000)] == pytest.approx([0.2] * 3)
