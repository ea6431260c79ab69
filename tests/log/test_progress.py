"""What a run says while it trains: when, in which words, and to which kind of stream.

A failure shows the lines, or the raw bytes of a terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from math import nan

import pytest

from mpipar.log import Progress, StepRecord, terminal

pytestmark = pytest.mark.alone


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Pages(io.StringIO):
    """A stream that keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def record(step: int, val_loss: float | None = None, step_s: float = 0.5, loss: float = 2.0) -> StepRecord:
    return StepRecord(step, loss, 1.0, 1e-3, 4096 * step, 4096 / step_s, step_s, 0.1, 10, val_loss)


def run(steps: list[StepRecord], total: int, log_every: int = 10) -> list[str]:
    """The writes of a run whose steps take a second of the clock each."""
    stream, clock = Pages(), Clock()
    with Progress(total, stream, log_every, clock=clock) as progress:
        for each in steps:
            clock.now += 1
            progress.step(each)
    return stream.writes


def test_a_line_every_few_steps_and_at_the_last() -> None:
    writes = run([record(step) for step in range(1, 26)], total=25)
    assert [text.split()[1] for text in writes] == ["10/25", "20/25", "25/25"]


def test_a_line_is_one_write_with_its_newline() -> None:
    assert run([record(10)], total=20) == [
        "step 10/20  loss 2.0000  grad 1.000  lr 1.00e-03  8,192 tokens/s  0:10 left\n"
    ]


def test_a_validation_has_a_line_at_any_step() -> None:
    (text,) = run([record(1), record(2, val_loss=2.5), record(3)], total=100)
    assert text.startswith("step   2/100  ")
    assert text.endswith("  validation loss 2.5000\n")


def test_time_left_counts_what_happens_between_the_steps() -> None:
    clock, stream = Clock(), Pages()
    progress = Progress(30, stream, 1, clock=clock)
    for step in (11, 12):  # as after a resume
        clock.now += 40
        progress.step(record(step))
    assert "12:00 left" in stream.writes[1]


def test_the_pace_is_that_since_the_last_line() -> None:
    writes = run(
        [record(step, step_s=0.5 if step < 3 else 0.25) for step in range(1, 5)], total=4, log_every=2
    )
    assert ["8,192 tokens/s" in writes[0], "16,384 tokens/s" in writes[1]] == [True, True]


def test_numbers_that_are_none_are_shown() -> None:
    assert "loss nan" in run([record(1, loss=nan)], total=1)[0]


def test_other_ranks_say_nothing() -> None:
    stream = Pages()
    with Progress(1, stream, 1, enabled=False) as progress:
        progress.say("hello")
        progress.step(record(1))
    assert stream.writes == []


def test_no_steps_no_line() -> None:
    stream = Pages()
    with Progress(0, stream, 10) as progress:
        progress.say("validation loss 5.5")
    assert stream.writes == ["validation loss 5.5\n"]


def test_a_narrow_encoding_stops_no_run() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(1, stream, 1) as progress:
        progress.say("café \N{REPLACEMENT CHARACTER}")
    assert stream.buffer.getvalue() == b"caf\\xe9 \\ufffd\n"  # type: ignore[attr-defined]
    stream.close()


def terminal_output(monkeypatch: pytest.MonkeyPatch) -> str:
    """What reaches a terminal in a run of three steps."""
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(read_to_end, ours)
        with os.fdopen(theirs, "w") as stream, Progress(3, stream, 1) as progress:
            for step in (1, 2, 3):
                progress.step(record(step))
            progress.say("[bold] is text")
    os.close(ours)
    return output.result().decode()


def read_to_end(file: int) -> bytes:
    """All bytes that a terminal gets; its end is an error on Linux."""
    read = b""
    with contextlib.suppress(OSError):
        while part := os.read(file, 4096):
            read += part
    return read


def test_a_terminal_has_a_bar_below_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    output = terminal_output(monkeypatch)
    assert "\x1b[" in output
    assert "3/3" in output
    assert "[bold] is text" in output
    assert all(f"step {step}/3  loss 2.0000" in output for step in (1, 2, 3))


def test_a_terminal_without_rich_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    output = terminal_output(monkeypatch)
    assert "\x1b" not in output
    assert len(output.splitlines()) == 4


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (["/dev/pts/9", "/dev/pts/1"], True),  # rank, launcher on a terminal
        (["/dev/pts/9", "/tmp/log"], False),  # launcher > log
        (["/dev/pts/9", "pipe:[5]"], False),  # launcher | less
        (["/dev/pts/9", "/dev/pts/9", "/dev/pts/9", "/tmp/log"], False),  # shells between the two
        (["/dev/pts/9", "/dev/null"], False),  # a daemon on another node
    ],
)
def test_a_pseudo_terminal_of_the_launcher_is_seen_through(
    outputs: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes are numbered downwards from 10: the rank, its parent, and so on."""
    monkeypatch.setattr(terminal, "output_of", lambda pid: outputs[10 - pid])
    monkeypatch.setattr(terminal, "parent_of", lambda pid: pid - 1)
    assert terminal.launcher_on_terminal(10) == expected


def test_a_process_that_may_not_be_looked_at_is_no_terminal() -> None:
    assert terminal.launcher_on_terminal(2**30) is False
    assert terminal.parent_of(os.getpid()) == os.getppid()
