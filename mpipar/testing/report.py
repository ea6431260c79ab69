"""One report for all ranks: what they made of a phase of a test, brought together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

RULE = "-" * 20
STRICT = "[XPASS(strict)] "
KINDS = ("passed", "xpassed", "skipped", "xfailed", "failed")  # the worst is the greatest


class Outcome(NamedTuple):
    """What one rank made of a phase of a test."""

    kind: str  # one of KINDS
    text: str = ""  # of a failure: the traceback and the captured output; of a skip or xfail: the reason
    message: str = ""  # of a failure: its one line for the summary


class Location(NamedTuple):
    """Where and how a test failed: pytest takes the message for its summary."""

    path: str
    lineno: int
    message: str


class Merged:
    """A failure as pytest shows it: with a text for the report and a line for the summary."""

    def __init__(self, text: str, message: str) -> None:
        self.text, self.reprcrash = text, Location("", 0, message)

    def __str__(self) -> str:
        return self.text

    def toterminal(self, writer: Any) -> None:
        writer.line(self.text)


def kind_of(report: Any) -> str:
    """The outcome of a pytest report, with those of tests that are expected to fail told apart."""
    if report.outcome == "failed":
        return "xpassed" if str(report.longrepr).startswith(STRICT) else "failed"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.outcome == "skipped" else "xpassed"
    return str(report.outcome)


def outcome_of(report: Any, shown: str) -> Outcome:
    """What this rank has to tell the others; `shown` is the report as pytest shows it."""
    kind = kind_of(report)
    if kind == "failed":
        message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
        return Outcome(kind, with_output(shown, report.sections), message or last_line(shown))
    reason = getattr(report, "wasxfail", None)
    if reason is None and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
    return Outcome(kind, reason or str(report.longrepr or "").removeprefix(STRICT))


def with_output(text: str, sections: Iterable[tuple[str, str]]) -> str:
    """The traceback, and what was captured."""
    captured = (f"{RULE} {name} {RULE}\n{text.rstrip()}" for name, text in sections if text.strip())
    return "\n".join([text.rstrip(), *captured])


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def settle(report: Any, outcomes: Sequence[Outcome]) -> None:
    """Makes the report of this rank say what all ranks together have to say. They are known to differ, or to fail.

    A failure anywhere is a failure everywhere; an expected failure anywhere is that everywhere, for "expected to
    fail" is said of the test and not of each rank; other differences are failures themselves.
    """
    kinds = {outcome.kind for outcome in outcomes}
    if "failed" in kinds:
        fail(report, *failures(outcomes))
    elif "xfailed" in kinds and "skipped" not in kinds:
        report.outcome = "skipped"
        report.wasxfail = next(outcome.text for outcome in outcomes if outcome.kind == "xfailed")
        if not isinstance(report.longrepr, tuple) and str(report.longrepr or "").startswith(STRICT):
            report.longrepr = None
    else:
        text = disagreement(outcomes)
        fail(report, text, text.partition("\n")[0])


def fail(report: Any, text: str, message: str) -> None:
    report.outcome, report.longrepr, report.sections = "failed", Merged(text, message), []
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def failures(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """The tracebacks of all ranks, equal ones once, and the line for the summary."""
    failed = {rank: outcome for rank, outcome in enumerate(outcomes) if outcome.kind == "failed"}
    blocks = [
        f"{RULE} {ranks_text(ranks)} of {len(outcomes)} {RULE}\n{text}"
        for text, ranks in grouped((outcome.text, rank) for rank, outcome in failed.items())
    ]
    message = next(iter(failed.values())).message
    where = "" if len(failed) == len(outcomes) else f"{ranks_text(list(failed))}: "
    return "\n".join(blocks), where + message


def disagreement(outcomes: Sequence[Outcome]) -> str:
    """`ranks disagree: passed on rank 0, skipped on ranks 1, 2`, and the reasons."""
    kinds = grouped((outcome.kind, rank) for rank, outcome in enumerate(outcomes))
    reasons = grouped(
        (outcome.text, rank) for rank, outcome in enumerate(outcomes) if outcome.kind != "passed"
    )
    return "\n".join(
        ["ranks disagree: " + ", ".join(f"{kind} on {ranks_text(ranks)}" for kind, ranks in kinds)]
        + [f"  {ranks_text(ranks)}: {text}" for text, ranks in reasons if text]
    )


def grouped(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """The ranks of each text, in the order of the first rank."""
    found: dict[str, list[int]] = {}
    for text, rank in pairs:
        found.setdefault(text, []).append(rank)
    return list(found.items())


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 0, 3`."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
