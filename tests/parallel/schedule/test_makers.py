"""The named schedules: each is complete and free of deadlock for any number of ranks and micro-batches.

A failure names the rank and the action that are wrong; `mpipar show --schedule NAME` draws it.
"""

from __future__ import annotations

import pytest
from parallel.schedule.legal import runs

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule import (
    NAMES,
    SYNC,
    Action,
    Schedule,
    check,
    find,
    gpipe,
    interleaved,
    make,
    one_f_one_b,
    zero_bubble,
)

pytestmark = pytest.mark.alone

ALL = [(name, 1) for name in NAMES if name != "interleaved"] + [("interleaved", v) for v in (1, 2, 3, 4)]


def words(schedule: Schedule) -> list[str]:
    """The computations of each rank in short: F0 forward, B0 backward, W0 its weights."""
    letters = {"forward": "F", "backward": "B", "backward_input": "B", "backward_weight": "W"}
    return [
        " ".join(f"{letters[kind]}{i}" for kind, _, i in actions if kind in letters)
        for actions in schedule.lists
    ]


@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize(("name", "chunks"), ALL)
def test_every_schedule_is_legal(name: str, chunks: int, ranks: int) -> None:
    for micro_batches in range(1, 17):
        schedule = make(name, ranks, micro_batches, chunks)
        check(schedule)
        assert runs(schedule)
        assert (schedule.ranks, schedule.stages, schedule.micro_batches) == (
            ranks,
            ranks * chunks,
            micro_batches,
        )


def test_they_are_what_the_papers_draw() -> None:
    """The figures' rows for 3 ranks and 4 micro-batches."""
    assert words(gpipe(3, 4)) == ["F0 F1 F2 F3 B3 B2 B1 B0"] * 3
    assert words(one_f_one_b(3, 4)) == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]
    assert words(zero_bubble(3, 4)) == [
        "F0 F1 F2 B0 W0 F3 B1 W1 B2 W2 B3 W3",
        "F0 F1 B0 F2 B1 W0 F3 B2 W1 B3 W2 W3",
        "F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3",
    ]


def test_interleaved_goes_through_all_chunks_a_group_at_a_time() -> None:
    first = [str(action) for action in interleaved(2, 4).lists[0] if action.kind in ("forward", "backward")]
    assert first[:6] == [
        "forward 0 0",
        "forward 0 1",
        "forward 2 0",
        "forward 2 1",
        "forward 0 2",
        "backward 2 0",
    ]
    assert words(interleaved(3, 4, chunks=1)) == words(one_f_one_b(3, 4))


def test_messages_go_between_ranks_alone() -> None:
    assert all(not kind.startswith(("send", "receive")) for kind, _, _ in interleaved(1, 3, 4).lists[0])
    assert gpipe(2, 1).lists == (
        (
            Action("forward", 0, 0),
            Action("send_forward", 0, 0),
            Action("receive_backward", 0, 0),
            Action("backward", 0, 0),
            SYNC,
        ),
        (
            Action("receive_forward", 1, 0),
            Action("forward", 1, 0),
            Action("backward", 1, 0),
            Action("send_backward", 1, 0),
            SYNC,
        ),
    )


def test_the_input_gradient_goes_before_the_weights_work() -> None:
    last = zero_bubble(2, 1).lists[1]
    assert [action.kind for action in last[2:]] == [
        "backward_input",
        "send_backward",
        "backward_weight",
        "sync",
    ]


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("1f1", (2, 2), "schedule '1f1' is unknown: did you mean 1f1b? Known: gpipe, 1f1b, interleaved"),
        ("xyz", (2, 2), "schedule 'xyz' is unknown. Known: gpipe"),
        ("gpipe", (0, 2), "gpipe: 0 ranks, 2 micro-batches, 1 chunks: at least 1 of each wanted"),
        ("1f1b", (2, 0), "1f1b: 2 ranks, 0 micro-batches"),
        ("interleaved", (0, 2, 2), "interleaved: 0 ranks"),
        ("interleaved", (2, 2, 0), "interleaved: 2 ranks, 2 micro-batches, 0 chunks"),
        ("zero_bubble", (2, -1), "zero_bubble: 2 ranks, -1 micro-batches"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, numbers: tuple[int, ...], message: str) -> None:
    for maker in (make, find):
        with pytest.raises(ScheduleError) as caught:
            maker(name, *numbers)
        assert str(caught.value).startswith(message)
