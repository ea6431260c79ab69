"""``train.py --trace FILE``: a file that a viewer opens, with all ranks in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import attempt, train, write_text

pytestmark = pytest.mark.launches

MODEL = "--mesh tp=2 --batch 4 --context 16 --width 24 --heads 3 --layers 1 --val-every 0 --sample 0"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace")
    write_text(path / "words.txt")
    return path


@pytest.fixture(scope="module")
def traced(here: Path) -> dict[str, Any]:
    """Two ranks of tp, 4 steps, of which 2 are traced."""
    train(2, f"{MODEL} --steps 4 --trace {here}/trace.json --trace-steps 2", here / "out", here / "words.txt")
    found: dict[str, Any] = json.loads((here / "trace.json").read_text())
    return found


def test_both_ranks_are_processes_with_two_steps(traced: dict[str, Any]) -> None:
    events = traced["traceEvents"]
    assert {event["args"]["name"][:15] for event in events if event["name"] == "process_name"} == {
        "rank 0 (tp=0 dp",
        "rank 1 (tp=1 dp",
    }
    steps = Counter((event["pid"], event["name"]) for event in events if event["name"].startswith("step "))
    assert steps == {(rank, f"step {step}"): 1 for rank in (0, 1) for step in (1, 2)}


def test_every_rank_has_operations_forward_and_backward_and_the_optimizer(traced: dict[str, Any]) -> None:
    counts = Counter((e["pid"], e.get("cat"), e["name"]) for e in traced["traceEvents"])
    for rank in (0, 1):
        assert counts[rank, "forward", "self_attention"] == counts[rank, "backward", "self_attention"] == 2
        assert counts[rank, "span", "AdamW.step"] == 2


def test_collectives_have_axis_bytes_and_line(traced: dict[str, Any]) -> None:
    """One activation of 4·16 tokens by 24 channels for each half of the block, forward and backward, and more."""
    collectives = [event for event in traced["traceEvents"] if event.get("cat") == "collective"]
    halves = [e for e in collectives if e["args"]["axis"] == "tp" and e["args"]["bytes"] == 4 * 16 * 24 * 4]
    assert len(halves) >= 2 * 2 * 4
    assert all(event["args"]["site"].partition(":")[0].endswith(".py") for event in collectives)
    assert any("mpipar/nn/linear.py" in event["args"]["site"] for event in halves)


def test_everything_is_within_its_step_and_waiting_within_a_collective(traced: dict[str, Any]) -> None:
    complete = [event for event in traced["traceEvents"] if event["ph"] == "X"]
    for rank in (0, 1):
        mine = [event for event in complete if event["pid"] == rank]
        steps = [event for event in mine if event["name"].startswith("step ")]
        collectives = [event for event in mine if event["cat"] == "collective"]
        assert all(any(within(event, step) for step in steps) for event in mine if event["cat"] == "forward")
        waiting = [event for event in mine if event["cat"] == "waiting"]
        assert all(any(within(event, each) for each in collectives) for event in waiting)
    assert any(event["cat"] == "waiting" for event in complete)


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    """To the nanosecond: a viewer drops what ends after the event that it is in."""
    begins, ends = zip(*(in_ns(each) for each in (outer, inner)), strict=True)
    return bool(begins[0] <= begins[1] and ends[1] <= ends[0])


def in_ns(event: dict[str, Any]) -> tuple[int, int]:
    begin = round(1000 * event["ts"])
    return begin, begin + round(1000 * event["dur"])


def test_a_run_that_is_shorter_than_the_trace_writes_it_at_its_end(here: Path) -> None:
    train(0, f"{MODEL} --mesh tp=1 --steps 1 --trace {here}/short.json", here / "short", here / "words.txt")
    events = json.loads((here / "short.json").read_text())["traceEvents"]
    assert [event["name"] for event in events if event["name"].startswith("step ")] == ["step 1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--trace nowhere/t.json", "--trace nowhere/t.json: there is no directory nowhere"),
        ("--trace words.txt", "--trace words.txt exists and is no trace"),
        ("--trace t.json --trace-steps 0", "--trace-steps 0: must be a whole number, at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(here: Path, flags: str, message: str) -> None:
    before = sorted(here.iterdir())
    done = attempt(
        2, [*MODEL.split(), "--steps", "1", "--data", "words.txt", "--out", "none", *flags.split()], here
    )
    assert done.returncode == 2
    assert done.stderr.count(message) == 1, done.stderr
    assert sorted(here.iterdir()) == before
