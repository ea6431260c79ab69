"""Events of all ranks as a Chrome trace: clocks, waiting, and files that may not be written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpipar.errors import UsageError
from mpipar.job import world
from mpipar.profile import Event, check_trace
from mpipar.profile.clocks import offsets
from mpipar.profile.events import chrome_events
from mpipar.profile.trace import BEGINNING, as_json, gather_json, write_whole
from mpipar.profile.watch import COLLECTIVE, FORWARD

SITE = "model.py:7"


def rank(events: list[Event], dp: int = 0, tp: int = 0, dropped: int = 0) -> dict[str, Any]:
    """What a rank hands in, as JSON gives it back."""
    return {
        "events": list(map(list, events)),
        "coords": {"dp": dp, "tp": tp},
        "host": "a",
        "dropped": dropped,
    }


def allreduce(begin: float, end: float, axis: str = "tp") -> Event:
    return Event(COLLECTIVE, "allreduce", begin, end, axis, 64, SITE)


def drawn(found: list[dict[str, Any]], name: str) -> list[tuple[int, float, float]]:
    """Rank, begin and duration in µs of the events of that name."""
    return [(event["pid"], event["ts"], event["dur"]) for event in found if event["name"] == name]


def test_times_are_microseconds_from_the_first_event_on_the_clock_of_rank_0() -> None:
    """The clock of rank 1 is 100 s ahead."""
    ranks = [rank([Event(FORWARD, "add", 5.0, 6.0)]), rank([Event(FORWARD, "add", 106.5, 107.0)], tp=1)]
    assert drawn(chrome_events(ranks, [0.0, 100.0]), "add") == [(0, 0.0, 1e6), (1, 1.5e6, 0.5e6)]


def test_a_rank_waits_until_the_last_has_come() -> None:
    ranks = [rank([allreduce(1.0, 4.0)]), rank([allreduce(3.0, 4.0)], tp=1)]
    found = chrome_events(ranks, [0.0, 0.0])
    assert drawn(found, "waiting") == [(0, 0.0, 2e6)]
    assert [event["args"] for event in found if event["name"] == "allreduce"] == [
        {"axis": "tp", "bytes": 64, "site": SITE}
    ] * 2


def test_only_ranks_of_one_communicator_wait_for_each_other() -> None:
    """tp pairs ranks 0 and 1, and 2 and 3, whose calls come later."""
    ranks = [
        rank([allreduce(1.0, 2.0)]),
        rank([allreduce(1.0, 2.0)], tp=1),
        rank([allreduce(5.0, 7.0)], dp=1),
        rank([allreduce(6.0, 7.0)], dp=1, tp=1),
    ]
    assert drawn(chrome_events(ranks, [0.0] * 4), "waiting") == [(2, 4e6, 1e6)]


def test_the_second_call_of_a_line_waits_for_the_second_call() -> None:
    ranks = [
        rank([allreduce(1.0, 2.0), allreduce(3.0, 6.0)]),
        rank([allreduce(1.0, 2.0), allreduce(5.0, 6.0)], tp=1),
    ]
    assert drawn(chrome_events(ranks, [0.0] * 2), "waiting") == [(0, 2e6, 2e6)]


def test_nobody_waits_in_a_message() -> None:
    ranks = [
        rank([Event(COLLECTIVE, "send", 1.0, 2.0, "tp", 8, SITE)]),
        rank([Event(COLLECTIVE, "send", 3.0, 4.0, "tp", 8, SITE)], tp=1),
    ]
    assert drawn(chrome_events(ranks, [0.0] * 2), "waiting") == []


def test_a_rank_has_a_name_and_says_what_is_left_out() -> None:
    (name, *_) = chrome_events([rank([], dp=1, dropped=1234)], [0.0])
    assert name["args"]["name"] == "rank 0 (dp=1 tp=0) on a, 1,234 events left out"


def test_rank_0_has_what_all_ranks_gave() -> None:
    ranks = world()
    found = gather_json({"rank": ranks.rank, "text": "ä" * (1000 * ranks.rank)})
    expected = [{"rank": r, "text": "ä" * (1000 * r)} for r in range(ranks.size)]
    assert found == (expected if ranks.rank == 0 else [])


def test_clocks_of_one_machine_agree() -> None:
    """It is one clock: what is found is the error, at most half of the quickest answer, and no answer takes 2 s."""
    assert all(abs(apart) < 1 for apart in offsets(world()))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "--trace folder is a directory: name a file in it, as folder/trace.json"),
        ("nowhere/t.json", "--trace nowhere/t.json: there is no directory nowhere: make it"),
        ("text.txt", "--trace text.txt exists and is no trace: name another file"),
        ("text.txt/t.json", "--trace text.txt/t.json: there is no directory text.txt"),
    ],
)
def test_a_bad_path_is_refused(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("words\n")
    with pytest.raises(UsageError) as raised:
        check_trace(path)
    assert str(raised.value).startswith(message)
    assert (tmp_path / "text.txt").read_text() == "words\n"


def test_a_trace_may_be_written_over_and_no_trace_needs_no_file(tmp_path: Path) -> None:
    check_trace("")
    check_trace(str(tmp_path / "new.json"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text(as_json([]))
    check_trace(str(tmp_path / "old.json"))
    assert as_json([]).startswith(BEGINNING)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "gone" / "t.json", as_json([]))
