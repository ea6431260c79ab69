"""Schedule files: read as they were written, and each wrong one refused with file and entry."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel.schedule.legal import random_schedule

from mpipar.errors import ScheduleError
from mpipar.parallel.schedule import NAMES, as_text, find, make, read, write

pytestmark = pytest.mark.alone

MINE = """\
ranks = 2
stages = 2
micro_batches = 2

[lists]
rank_0 = ["forward 0 0", "forward 0 1", "backward 0 0", "backward 0 1"]
rank_1 = ["forward 1 0", "backward 1 0", "forward 1 1", "backward 1 1"]
"""
WHOLE = """\
ranks = 2
stages = 2
micro_batches = 1

[lists]
rank_0 = ["forward 0 0", "send_forward 0 0", "receive_backward 0 0", "backward 0 0", "sync"]
rank_1 = ["receive_forward 1 0", "forward 1 0", "backward 1 0", "send_backward 1 0", "sync"]
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_read_as_it_was_written(name: str, path: Path) -> None:
    schedule = make(name, 3, 4)
    write(schedule, path)
    assert read(path, 3, 4) == read(path) == find("mine.toml", 3, 4) == schedule
    assert "send" not in path.read_text().partition("\n\n")[2]  # computations alone


def test_any_schedule_is_read_as_it_was_written(path: Path) -> None:
    @given(st.integers(0, 2**32))
    @settings(max_examples=30)
    def law(seed: int) -> None:
        schedule = random_schedule(Random(seed))
        path.write_text(as_text(schedule))
        assert read(path) == schedule

    law()


def test_computations_are_enough(path: Path) -> None:
    path.write_text(MINE)
    assert read(path, 2, 2).lists == make("1f1b", 2, 2).lists
    assert read(path).name == "mine"
    path.write_text(WHOLE)
    assert read(path).lists == make("gpipe", 2, 1).lists


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ranks = 2", "ranks = 2 2", "mine.toml is no TOML: "),
        ("stages = 2", "stages = two", "mine.toml is no TOML: "),
        ("ranks = 2", "", "mine.toml: ranks is missing: write  ranks = 4"),
        ("[lists]", "[list]", "mine.toml: unknown key 'list': did you mean lists?"),
        ("ranks = 2", "ranks = 2\nxyz = 1", "mine.toml: unknown key 'xyz'. Known: name, ranks, stages,"),
        ("ranks = 2", 'ranks = "2"', "mine.toml: ranks = '2': a whole number wanted, 1 to 100000"),
        ("ranks = 2", "ranks = true", "mine.toml: ranks = True: a whole number wanted"),
        ("stages = 2", "stages = 0", "mine.toml: stages = 0: a whole number wanted"),
        ("stages = 2", "stages = 2e99", "mine.toml: stages = 2e+99: a whole number wanted"),
        ("micro_batches = 2", "micro_batches = 1000000", "mine.toml: micro_batches = 1000000: a whole"),
        ("ranks = 2", "name = 2\nranks = 2", "mine.toml: name = 2: a text of one line wanted"),
        ("ranks = 2", "places = 1\nranks = 2", "mine.toml: places = 1: a list with the rank of each stage"),
        ("ranks = 2", "places = [0, 0]\nranks = 2", "mine.toml: mine: places [0, 0] give rank 0 2 stages"),
        ("ranks = 2", "places = [0]\nranks = 2", "mine.toml: mine: 2 lists and 1 places: one list a rank (2)"),
        ("stages = 2", "stages = 3", "mine.toml: mine: 3 stages on 2 ranks: a multiple of 2 wanted"),
        ("stages = 2", "stages = 4", "mine.toml: mine: rank 0 lacks forward 2 0"),
        ("ranks = 2", "ranks = 3", "mine.toml: [lists] has rank_0, rank_1: one list a rank wanted, rank_0 to rank_2"),
        ("rank_1 =", "rank_2 =", "mine.toml: [lists] has rank_0, rank_2: one list a rank wanted, rank_0 to rank_1"),
        ('["forward 0 0", "forward 0 1", "backward 0 0", "backward 0 1"]', "1", "mine.toml: rank_0 = 1: a list of"),
        ('"forward 0 1"', "3", "mine.toml: rank_0, action 2 (3): a text wanted, as \"forward 0 3\""),
        (
            "forward 0 1",
            "forwrd 0 1",
            "mine.toml: rank_0, action 2 ('forwrd 0 1'): 'forwrd' is no kind of action: did you mean forward?",
        ),
        ("forward 0 1", "xyz 0 1", "mine.toml: rank_0, action 2 ('xyz 0 1'): 'xyz' is no kind of action. Known: "),
        ("forward 0 1", "forward 0 one", "mine.toml: rank_0, action 2 ('forward 0 one'): stage and micro-batch in"),
        ("forward 0 1", "forward 0 -1", "mine.toml: rank_0, action 2 ('forward 0 -1'): stage and micro-batch in"),
        ("forward 0 1", "forward 0 ²", "mine.toml: rank_0, action 2 ('forward 0 ²'): stage and micro-batch in whole"),
        ("forward 0 1", "forward 0", "mine.toml: rank_0, action 2 ('forward 0'): stage and micro-batch in whole"),
        ("forward 0 1", "sync 0 1", "mine.toml: rank_0, action 2 ('sync 0 1'): sync alone wanted"),
        ("forward 0 1", "", "mine.toml: rank_0, action 2 (''): '' is no kind of action. Known: forward,"),
        ("forward 0 1", "forward 0 2", "mine.toml: mine: rank 0, action 2 (forward 0 2): there is no micro-batch 2"),
        ("forward 0 1", "forward 1 1", "mine.toml: mine: rank 0, action 2 (forward 1 1): stage 1 lives on rank 1"),
        ("forward 0 1", "forward 0 0", "mine.toml: mine: rank 0, action 2 (forward 0 0) is there already: rank 0, act"),
        ('"forward 0 1", ', "", "mine.toml: mine: rank 0 lacks forward 0 1"),
        (
            '"forward 1 0", "backward 1 0"',
            '"backward 1 0", "forward 1 0"',
            "mine.toml: mine: rank 1, action 1 (backward 1 0) stands before what it needs, rank 1, action 4 "
            "(forward 1 0) (counted with the sends and receives that were put in)",
        ),
        (
            '"backward 0 0", "backward 0 1"',
            '"backward 0 1", "backward 0 0", "sync"',
            "mine.toml: mine: rank 0 lacks send_forward 0 0",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(old: str, new: str, message: str, path: Path) -> None:
    assert old in MINE
    path.write_text(MINE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ScheduleError) as caught:
        read(path)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"receive_forward 1 0", ', "", "rank 1 lacks receive_forward 1 0, which rank 1, action 1 (forward 1 0) needs"),
        (
            '"send_forward 0 0", "receive_backward 0 0"',
            '"receive_backward 0 0", "send_forward 0 0"',
            "deadlock: rank 0, action 2 (receive_backward 0 0) waits for rank 1, action 4 (send_backward 1 0), and "
            "rank 1, action 1 (receive_forward 1 0) waits for rank 0, action 3 (send_forward 0 0)",
        ),
    ],
)  # fmt: skip
def test_a_file_with_messages_needs_them_all(old: str, new: str, message: str, path: Path) -> None:
    path.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(ScheduleError) as caught:
        read(path)
    assert str(caught.value) == f"mine.toml: mine: {message}"


def test_a_cycle_of_computations_is_found(path: Path) -> None:
    """Rank 0 wants the gradients of micro-batch 0 first, rank 1 gives them after a forward that was not sent yet."""
    orders = "\n".join(MINE.splitlines()[:-2])
    rank_0 = 'rank_0 = ["forward 0 0", "backward 0 0", "forward 0 1", "backward 0 1"]'
    rank_1 = 'rank_1 = ["forward 1 0", "forward 1 1", "backward 1 0", "backward 1 1"]'
    path.write_text(f"{orders}\n{rank_0}\n{rank_1}\n")
    with pytest.raises(ScheduleError) as caught:
        read(path)
    assert str(caught.value) == (
        "mine.toml: mine: deadlock: rank 0, action 3 (receive_backward 0 0) waits for rank 1, action 6 "
        "(send_backward 1 0), and rank 1, action 3 (receive_forward 1 1) waits for rank 0, action 6 (send_forward 0 1) "
        "(counted with the sends and receives that were put in)"
    )


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((4, 2), "mine.toml: it is for ranks = 2, and this run has 4: write a file for that"),
        ((2, 8), "mine.toml: it is for micro_batches = 2, and this run has 8: write a file for that"),
    ],
)
def test_a_file_for_another_run_is_refused(numbers: tuple[int, int], message: str, path: Path) -> None:
    path.write_text(MINE)
    with pytest.raises(ScheduleError) as caught:
        find("mine.toml", *numbers)
    assert str(caught.value) == message


def test_files_that_are_none(path: Path) -> None:
    for source in ("mine.toml", "."):
        with pytest.raises(ScheduleError, match="cannot be read: "):
            find(source, 2, 2)
    with pytest.raises(ScheduleError, match=r"is unknown\. Known: "):
        find("x" * 5000, 2, 2)
    path.write_bytes(b"ranks = 2 # \xff")
    with pytest.raises(ScheduleError, match=r"mine.toml is no UTF-8 at byte 12: write it as UTF-8"):
        read(path)
    with pytest.raises(ScheduleError, match="cannot be written: No such file or directory"):
        write(make("gpipe", 1, 1), "nowhere/mine.toml")
