"""What several ranks made of one test becomes one report. A failure shows the report that was made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mpipar.testing.report import STRICT, Outcome, disagreement, failures, kind_of, outcome_of, settle

pytestmark = pytest.mark.alone


def report(outcome: str, longrepr: Any = None, **more: Any) -> Any:
    return SimpleNamespace(outcome=outcome, longrepr=longrepr, sections=[], **more)


XFAILED = report("skipped", wasxfail="known")
STRICT_XPASSED = report("failed", STRICT + "known")


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        (report("passed"), "passed"),
        (report("failed", "text"), "failed"),
        (report("skipped", ("file", 1, "Skipped: why")), "skipped"),
        (XFAILED, "xfailed"),
        (report("passed", wasxfail="known"), "xpassed"),
        (STRICT_XPASSED, "xpassed"),
    ],
)
def test_kinds(one: Any, kind: str) -> None:
    assert kind_of(one) == kind


def settled(mine: Any, *kinds: str) -> Any:
    settle(mine, [Outcome(kind, f"text of a {kind}", "message") for kind in kinds])
    return mine


def test_a_failure_anywhere_is_a_failure_everywhere() -> None:
    for kinds in (("passed", "failed"), ("skipped", "failed"), ("xfailed", "failed")):
        mine = settled(report("passed"), *kinds)
        assert (mine.outcome, str(mine.longrepr)) == (
            "failed",
            "-------------------- rank 1 of 2 --------------------\ntext of a failed",
        )
        assert mine.longrepr.reprcrash.message == "rank 1: message"


def test_an_expected_failure_anywhere_is_one_everywhere() -> None:
    for mine in (report("passed"), report("passed", wasxfail="known"), report("failed", STRICT + "known")):
        settled(mine, "xpassed", "xfailed")
        assert (mine.outcome, mine.wasxfail) == ("skipped", "text of a xfailed")
        assert mine.longrepr is None


def test_a_skip_on_some_ranks_is_a_failure() -> None:
    mine = settled(report("passed"), "passed", "skipped", "passed")
    assert mine.outcome == "failed"
    assert str(mine.longrepr).startswith("ranks disagree: passed on ranks 0, 2, skipped on rank 1\n")


def test_equal_tracebacks_are_shown_once() -> None:
    one, other = Outcome("failed", "one", "first"), Outcome("failed", "other", "second")
    text, message = failures([one, other, one])
    assert text == (
        "-------------------- ranks 0, 2 of 3 --------------------\none\n"
        "-------------------- rank 1 of 3 --------------------\nother"
    )
    assert message == "first", "all ranks failed: none is named"


def test_reasons_are_told() -> None:
    outcomes = [Outcome("skipped", "no GPU"), Outcome("passed"), Outcome("skipped", "no disk")]
    assert disagreement(outcomes).splitlines() == [
        "ranks disagree: skipped on ranks 0, 2, passed on rank 1",
        "  rank 0: no GPU",
        "  rank 2: no disk",
    ]


def test_captured_output_follows_the_traceback() -> None:
    mine = report("failed", "text")
    mine.sections = [("Captured stdout call", "hello\n"), ("Captured stderr call", "  ")]
    assert outcome_of(mine, "Traceback\nError: no\n") == Outcome(
        "failed",
        "Traceback\nError: no\n-------------------- Captured stdout call --------------------\nhello",
        "Error: no",
    )
