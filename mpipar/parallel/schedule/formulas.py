"""The cost of the named schedules in closed form: what the papers say, beside the simulation of `cost`.

p ranks, m micro-batches, v chunks (stages a rank); F, B, W: how long a stage's forward, its backward for the input and
its backward for the weights take, for one micro-batch. Messages take no time. Each rank computes for v·m·(F + B + W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule.cost import Cost

__all__ = ["formula"]


class Case(NamedTuple):
    """A letter of the formulas each."""

    p: int
    m: int
    v: int
    F: float
    B: float
    W: float


def formula(
    name: str,
    ranks: int,
    micro_batches: int,
    chunks: int = 1,
    forward: float = 1,
    backward_input: float = 1,
    backward_weight: float = 1,
) -> Cost:
    """What `cost` gives for the schedule that `make` makes, without making it.

    Raises ScheduleError for `interleaved` unless the ranks divide the micro-batches, and for `zero_bubble` where W is
    more than F or B: there is no closed form.

    >>> formula("zero_bubble", ranks=4, micro_batches=8)
    Cost(makespan=27, bubble=0.1111111111111111, peak=(4, 4, 4, 4))
    """
    case = Case(ranks, micro_batches, chunks, forward, backward_input, backward_weight)
    idle, kept = TABLE[name]
    work, bubble = chunks * micro_batches * (forward + backward_input + backward_weight), idle(case)
    makespan = work + bubble
    return Cost(makespan, bubble / makespan, tuple(kept(case, rank) for rank in range(ranks)))


def flush(case: Case) -> float:
    """(p-1)·(F + B + W): Narayanan et al. 2021, section 2.2.1, whose t_b is B + W. It is (p-1)/(m+p-1) of the time, as
    Huang et al. 2019, section 2.3, has it for GPipe.
    """
    p, _, _, F, B, W = case
    return (p - 1) * (F + B + W)


def interleaved(case: Case) -> float:
    """(p-1)·(F + B + W) of one chunk, which is 1F1B's by v: Narayanan et al. 2021, section 2.2.2."""
    if case.m % case.p:
        raise ScheduleError(
            f"interleaved has no formula for {case.m} micro-batches on {case.p} ranks, which do not divide them"
        )
    return flush(case)


def zero_bubble(case: Case) -> float:
    """(p-1)·(F + B - W) where m ≥ p: Qi et al. 2023, section 2.3. With fewer micro-batches there are only m - 1 of W
    that could fill the end.
    """
    p, m, _, F, B, W = case
    if min(F, B) < W:
        raise ScheduleError(f"zero_bubble has no formula for W {W} above F {F} or B {B}")
    return (p - 1) * (F + B) - min(p - 1, m - 1) * W


def all_of_them(case: Case, rank: int) -> int:
    """m: no backward begins before the last forward."""
    return case.m


def first_in_first_out(case: Case, rank: int) -> int:
    """p - r on rank r, at most m: Narayanan et al. 2021, section 2.2.1, has p for rank 0."""
    return min(case.m, case.p - rank)


def groups(case: Case, rank: int) -> int:
    """2·(p - r - 1) + (v-1)·p + 1 on rank r, at most v·m: the forwards of the warm-up (Narayanan et al. 2021, figure 4)
    and one more; with one chunk it is 1F1B.
    """
    p, m, v, *_ = case
    return first_in_first_out(case, rank) if v == 1 else min(v * m, 2 * (p - rank - 1) + (v - 1) * p + 1)


def as_the_first(case: Case, rank: int) -> int:
    """p on every rank, at most m: Qi et al. 2023, section 2.3. What waits for W counts in full."""
    return min(case.m, case.p)


TABLE: dict[str, tuple[Callable[[Case], float], Callable[[Case, int], int]]] = {
    "gpipe": (flush, all_of_them),
    "1f1b": (flush, first_in_first_out),
    "interleaved": (interleaved, groups),
    "zero_bubble": (zero_bubble, as_the_first),
}
