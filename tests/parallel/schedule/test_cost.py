"""The simulation against the papers' formulas, exactly: two ways to the same numbers.

A failure shows both as (makespan, bubble, peak of each rank); `mpipar show` draws what is simulated.
"""

from __future__ import annotations

import itertools

import pytest

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule import Action, Cost, Schedule, connect, cost, formula, interleaved, make

pytestmark = pytest.mark.alone

DURATIONS = [
    (1, 1, 1),
    (1, 2, 1),
    (2, 1, 0.5),
    (0.25, 3, 0.125),
    (4, 0.5, 0.5),
]  # exact in binary; W ≤ F, W ≤ B
OTHERS = [(1, 1, 3), (0.5, 2, 1), (2, 0.25, 1)]


def same(found: Cost, expected: Cost) -> bool:
    return found == (expected.makespan, pytest.approx(expected.bubble, rel=1e-12, abs=1e-15), expected.peak)


@pytest.mark.parametrize("durations", DURATIONS)
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zero_bubble"])
def test_cost_is_the_formula(name: str, durations: tuple[float, float, float]) -> None:
    for ranks, micro_batches in itertools.product(range(1, 9), (1, 2, 3, 5, 8, 16)):
        found = cost(make(name, ranks, micro_batches), *durations)
        assert same(found, formula(name, ranks, micro_batches, 1, *durations)), (ranks, micro_batches, found)


@pytest.mark.parametrize("durations", DURATIONS + OTHERS)
def test_cost_of_interleaved_is_the_formula_where_the_ranks_divide(
    durations: tuple[float, float, float],
) -> None:
    for ranks, groups, chunks in itertools.product((1, 2, 3, 4, 8), (1, 2, 3), (1, 2, 4)):
        found = cost(make("interleaved", ranks, ranks * groups, chunks), *durations)
        assert same(found, formula("interleaved", ranks, ranks * groups, chunks, *durations)), (ranks, found)


@pytest.mark.parametrize("durations", OTHERS)
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_other_durations_too(name: str, durations: tuple[float, float, float]) -> None:
    for ranks, micro_batches in itertools.product((2, 3, 8), (1, 2, 5, 16)):
        found = cost(make(name, ranks, micro_batches), *durations)
        assert same(found, formula(name, ranks, micro_batches, 1, *durations)), (ranks, micro_batches, found)


def test_the_shares_of_the_papers() -> None:
    """For p ranks, m micro-batches, v chunks and F = B = W."""
    for p, m, v in ((4, 8, 2), (8, 16, 4), (2, 6, 3)):
        assert cost(make("gpipe", p, m)).bubble == pytest.approx((p - 1) / (m + p - 1))
        assert cost(make("1f1b", p, m)).bubble == pytest.approx((p - 1) / (m + p - 1))
        assert cost(make("interleaved", p, m, v)).bubble == pytest.approx((p - 1) / (v * m + p - 1))
        third = (p - 1) / 3  # ZB-H1 leaves a third of 1F1B's bubble
        assert cost(make("zero_bubble", p, m)).bubble == pytest.approx(third / (m + third))


def test_micro_batches_that_the_ranks_do_not_divide_cost_no_more_than_1f1b_nor_than_a_full_group() -> None:
    for ranks, micro_batches, chunks in itertools.product((2, 3, 4, 5, 8), range(1, 12), (2, 3)):
        found = cost(make("interleaved", ranks, micro_batches, chunks))
        full = cost(make("interleaved", ranks, -(-micro_batches // ranks) * ranks, chunks))
        assert found.makespan <= min(
            full.makespan, chunks * cost(make("1f1b", ranks, micro_batches)).makespan
        )
        assert all(kept <= most for kept, most in zip(found.peak, full.peak, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("interleaved", 4, 6, 2), "interleaved has no formula for 6 micro-batches on 4 ranks"),
        (("zero_bubble", 4, 8, 1, 1, 1, 2), "zero_bubble has no formula for W 2 above F 1 or B 1"),
    ],
)
def test_where_there_is_no_formula_it_says_so(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        formula(*arguments)


def test_a_message_takes_its_time() -> None:
    """One micro-batch over three ranks: there and back, four messages."""
    for name in ("gpipe", "1f1b", "zero_bubble"):
        assert cost(make(name, 3, 1), 1, 2, 3, send=10).makespan == 3 * (1 + 2) + 3 + 4 * 10 + (
            0 if name == "zero_bubble" else 2 * 3
        )


def test_messages_hide_behind_other_micro_batches() -> None:
    """Rank 0 of GPipe sends one while it computes the next: only the first and the last are waited for."""
    assert cost(make("gpipe", 2, 6), 1, 1, 1, send=1).makespan == cost(make("gpipe", 2, 6)).makespan + 2


def test_an_activation_lives_until_all_of_its_backward_is_done() -> None:
    actions = [
        Action("forward", 0, 0),
        Action("backward_input", 0, 0),
        Action("forward", 0, 1),
        Action("backward", 0, 1),
        Action("backward_weight", 0, 0),
    ]
    assert cost(connect(Schedule("mine", 1, 1, 2, (tuple(actions),)))) == (6, 0, (2,))


def test_stages_in_the_form_of_a_v() -> None:
    """Stages 0 and 3 on rank 0: no message between 1 and 2, and the loss is where the tokens are."""
    order = [[("forward", 0), ("forward", 3), ("backward", 3), ("backward", 0)]]
    order += [[("forward", 1), ("forward", 2), ("backward", 2), ("backward", 1)]]
    lists = tuple(tuple(Action(kind, stage, 0) for kind, stage in line) for line in order)
    schedule = connect(Schedule("v", 2, 4, 1, lists, (0, 1, 1, 0)))
    assert cost(schedule) == (12, 0.5, (2, 2))
    assert [str(action) for action in schedule.lists[1]] == [
        "receive_forward 1 0",
        "forward 1 0",
        "forward 2 0",
        "send_forward 2 0",
        "receive_backward 2 0",
        "backward 2 0",
        "backward 1 0",
        "send_backward 1 0",
        "sync",
    ]


def test_nothing_takes_time() -> None:
    assert cost(interleaved(2, 2), 0, 0, 0) == (0, 0, (4, 3))
