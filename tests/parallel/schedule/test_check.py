"""`check` against a second opinion (legal.py), and each mistake with the message that it deserves.

A failure of the law shows a schedule on which the two do not agree: its lists are all that matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel.schedule.legal import random_schedule, runs

from mpipar.errors import ScheduleError, UsageError
from mpipar.parallel.schedule import KINDS, SYNC, Action, Schedule, check, cost, one_f_one_b, zero_bubble

SEEDS = st.integers(0, 2**32).map(Random)  # much quicker than st.randoms()
Lists = list[list[Action]]


def passes(schedule: Schedule) -> bool:
    try:
        check(schedule)
    except ScheduleError:
        return False
    return True


@given(SEEDS)
@settings(max_examples=150)
def test_any_legal_order_passes(random: Random) -> None:
    schedule = random_schedule(random)
    assert runs(schedule)
    check(schedule)
    assert all(peak >= 1 for peak in cost(schedule).peak)


def remove(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    del lists[rank][at]


def swap(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    other = random.randrange(len(lists[rank]))
    lists[rank][at], lists[rank][other] = lists[rank][other], lists[rank][at]


def swap_neighbours(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    lists[rank][at - 1 : at + 1] = lists[rank][at - 1 : at + 1][::-1]


def double(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    lists[rank].insert(random.randrange(len(lists[rank]) + 1), lists[rank][at])


def retag(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    kind, stage, micro_batch = lists[rank][at]
    lists[rank][at] = random.choice(
        [
            Action(random.choice(KINDS), stage, micro_batch),
            Action(kind, random.randint(-1, schedule.stages), micro_batch),
            Action(kind, stage, random.randint(-1, schedule.micro_batches)),
        ]
    )


def hand_over(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    taken = lists[rank].pop(at)
    other = random.randrange(len(lists))
    lists[other].insert(random.randrange(len(lists[other]) + 1), taken)


def join(lists: Lists, rank: int, at: int, random: Random, schedule: Schedule) -> None:
    """backward_input becomes backward, its weights' part goes; or the reverse, the weights' part beside it."""
    kind, stage, micro_batch = lists[rank][at]
    if kind == "backward_input":
        lists[rank][at] = Action("backward", stage, micro_batch)
        lists[rank].remove(Action("backward_weight", stage, micro_batch))
    elif kind == "backward":
        lists[rank][at] = Action("backward_input", stage, micro_batch)
        lists[rank].insert(
            random.randrange(len(lists[rank]) + 1), Action("backward_weight", stage, micro_batch)
        )


MUTATIONS: list[Callable[[Lists, int, int, Random, Schedule], None]] = [
    remove,
    swap,
    swap_neighbours,
    double,
    retag,
    hand_over,
    join,
]


def test_a_changed_schedule_is_refused_unless_it_is_still_legal() -> None:
    seen = Counter[tuple[str, bool]]()

    @given(SEEDS, st.sampled_from(MUTATIONS))
    @settings(max_examples=600)
    def law(random: Random, mutation: Callable[[Lists, int, int, Random, Schedule], None]) -> None:
        schedule = random_schedule(random)
        lists = [list(actions) for actions in schedule.lists]
        rank = random.randrange(len(lists))
        mutation(lists, rank, random.randrange(len(lists[rank])), random, schedule)
        changed = replace(schedule, lists=tuple(map(tuple, lists)))
        legal = runs(changed)
        seen[mutation.__name__, legal] += 1
        assert passes(changed) == legal

    law()
    assert all(seen[mutation.__name__, False] for mutation in MUTATIONS), seen
    assert all(seen[name, True] for name in ("swap", "swap_neighbours", "join")), seen


# ---- each mistake by its message -------------------------------------------------------------------------------

F, B = "forward", "backward"


def changed(change: Callable[[Lists], object], schedule: Schedule | None = None) -> Schedule:
    schedule = schedule or one_f_one_b(2, 2)
    lists = [list(actions) for actions in schedule.lists]
    change(lists)
    return replace(schedule, lists=tuple(map(tuple, lists)))


def test_the_lists_that_are_changed_below() -> None:
    assert [list(map(str, actions)) for actions in one_f_one_b(2, 2).lists] == [
        [
            "forward 0 0",
            "send_forward 0 0",
            "forward 0 1",
            "send_forward 0 1",
            "receive_backward 0 0",
            "backward 0 0",
            "receive_backward 0 1",
            "backward 0 1",
            "sync",
        ],
        [
            "receive_forward 1 0",
            "forward 1 0",
            "backward 1 0",
            "send_backward 1 0",
            "receive_forward 1 1",
            "forward 1 1",
            "backward 1 1",
            "send_backward 1 1",
            "sync",
        ],
    ]


def put(rank: int, at: int, *actions: Action) -> Callable[[Lists], None]:
    """These instead of the one that is there."""

    def change(lists: Lists) -> None:
        lists[rank][at : at + 1] = actions

    return change


def move(rank: int, at: int, to: int) -> Callable[[Lists], None]:
    def change(lists: Lists) -> None:
        lists[rank].insert(to, lists[rank].pop(at))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, 0), "rank 1 lacks receive_forward 1 0, which rank 1, action 1 (forward 1 0) needs"),
        (put(0, 1), "rank 0 lacks send_forward 0 0, which rank 1, action 1 (receive_forward 1 0) needs"),
        (put(0, 4), "rank 0 lacks receive_backward 0 0, which rank 0, action 5 (backward 0 0) needs"),
        (put(1, 3), "rank 1 lacks send_backward 1 0, which rank 0, action 5 (receive_backward 0 0) needs"),
        (put(0, 0), "rank 0 lacks forward 0 0, which rank 0, action 1 (send_forward 0 0) needs"),
        (put(0, 5), "rank 0 lacks backward 0 0"),
        (put(1, 2), "rank 1 lacks backward 1 0, which rank 1, action 3 (send_backward 1 0) needs"),
        (put(0, 8), "rank 0 lacks sync, its last action"),
        (
            put(0, 5, Action("backward_input", 0, 0)),
            "rank 0 lacks backward_weight 0 0",
        ),
        (
            put(0, 5, Action("backward_weight", 0, 0)),
            "rank 0 lacks backward_input 0 0, which rank 0, action 6 (backward_weight 0 0) needs",
        ),
        (
            put(0, 5, Action(B, 0, 0), Action("backward_input", 0, 0), Action("backward_weight", 0, 0)),
            "rank 0, action 6 (backward 0 0): its parts are there too; "
            "write backward, or backward_input and backward_weight",
        ),
        (
            put(0, 2, Action(F, 0, 0)),
            "rank 0, action 3 (forward 0 0) is there already: rank 0, action 1 (forward 0 0)",
        ),
        (put(0, 0, SYNC, Action(F, 0, 0)), "rank 0, action 1 (sync) is not the last of its rank"),
        (
            move(1, 2, 1),
            "rank 1, action 2 (backward 1 0) stands before what it needs, rank 1, action 3 (forward 1 0)",
        ),
        (
            move(0, 1, 0),
            "rank 0, action 1 (send_forward 0 0) stands before what it needs, rank 0, action 2 (forward 0 0)",
        ),
        (
            move(1, 0, 1),
            "rank 1, action 1 (forward 1 0) stands before what it needs, rank 1, action 2 (receive_forward 1 0)",
        ),
        (
            move(0, 4, 0),
            "deadlock: rank 0, action 1 (receive_backward 0 0) waits for rank 1, action 4 (send_backward 1 0), and "
            "rank 1, action 1 (receive_forward 1 0) waits for rank 0, action 3 (send_forward 0 0)",
        ),
        (
            put(0, 0, Action("forwrd", 0, 0)),
            "rank 0, action 1 (forwrd 0 0): 'forwrd' is unknown: did you mean forward? Known: forward,",
        ),
        (put(0, 0, Action(F, 2, 0)), "rank 0, action 1 (forward 2 0): there is no stage 2: they are 0 to 1"),
        (put(0, 0, Action(F, -1, 0)), "rank 0, action 1 (forward -1 0): there is no stage -1"),
        (
            put(0, 0, Action(F, 0, 2)),
            "rank 0, action 1 (forward 0 2): there is no micro-batch 2: they are 0 to 1",
        ),
        (put(0, 0, Action(F, 1, 0)), "rank 0, action 1 (forward 1 0): stage 1 lives on rank 1"),
        (
            put(1, 3, Action("send_forward", 1, 0)),
            "rank 1, action 4 (send_forward 1 0): no message goes there: the model ends there",
        ),
        (put(0, 8, Action("sync", 0, 0)), "rank 0, action 9 (sync): no message goes there"),
        (
            lambda lists: lists.append([SYNC]),
            "3 lists and 2 places: one list a rank (2) and one place a stage (2)",
        ),
        (lambda lists: lists[1].clear(), "rank 1 lacks forward 1 0"),
    ],
)
def test_a_mistake_is_named_with_its_rank_and_action(change: Callable[[Lists], None], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(changed(change))
    assert str(caught.value).startswith(f"1f1b: {message}")
    assert not runs(changed(change)) or len(changed(change).lists) == 3


def test_a_weight_gradient_before_its_input_gradient_is_refused() -> None:
    bad = changed(lambda lists: lists[1].insert(1, lists[1].pop(4)), zero_bubble(2, 1))
    with pytest.raises(
        ScheduleError, match=r"rank 1, action 2 \(backward_weight 1 0\) stands before what it needs"
    ):
        check(bad)


def test_a_cycle_of_three_ranks_is_told_all_around() -> None:
    """Each rank waits for the one before it, in two micro-batches."""
    schedule = one_f_one_b(3, 2)
    assert str(schedule.lists[2][2]) == "backward 2 0"
    bad = changed(lambda lists: lists[0].insert(0, lists[0].pop(4)), schedule)
    with pytest.raises(ScheduleError) as caught:
        check(bad)
    assert str(caught.value) == (
        "1f1b: deadlock: rank 0, action 1 (receive_backward 0 0) waits for rank 1, action 9 (send_backward 1 0), and "
        "rank 1, action 1 (receive_forward 1 0) waits for rank 0, action 3 (send_forward 0 0)"
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ranks", 0, "ranks 0, stages 2, micro_batches 2: each must be at least 1"),
        ("micro_batches", 0, "ranks 2, stages 2, micro_batches 0"),
        ("stages", 3, "3 stages on 2 ranks: a multiple of 2 wanted"),
        ("places", (0, 0), "places [0, 0] give rank 0 2 stages: 1 wanted on each of the ranks 0 to 1"),
        ("places", (0, 2), "places [0, 2] give rank 1 0 stages"),
        ("places", (0,), "2 lists and 1 places"),
    ],
)
def test_numbers_that_fit_no_schedule_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check(replace(one_f_one_b(2, 2), **{field: value}))
    assert str(caught.value).startswith(f"1f1b: {message}")
