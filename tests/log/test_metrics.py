"""metrics.jsonl can be read at any moment. A failure shows the line that is not the JSON it should be."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

from mpipar.errors import UsageError
from mpipar.log import Metrics, StepRecord

pytestmark = pytest.mark.alone

RECORD = StepRecord(
    step=1,
    loss=5.5,
    grad_norm=1.25,
    lr=4e-5,
    tokens=4096,
    tokens_per_s=8192.0,
    step_s=0.5,
    comm_s=0.1,
    comm_bytes=1024,
)
ORDER = ["step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_s", "comm_s", "comm_bytes"]


def test_every_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        for step in (1, 2, 3):
            metrics.write(replace(RECORD, step=step))
            lines = path.read_text().splitlines(keepends=True)
            assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
            assert lines[-1].endswith("\n")


def test_the_order_is_that_of_the_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write(RECORD)
        metrics.write(replace(RECORD, val_loss=2.5))
    plain, measured = map(json.loads, path.read_text().splitlines())
    assert list(plain) == ORDER
    assert list(measured) == [*ORDER, "val_loss"]
    assert measured == {**plain, "val_loss": 2.5}


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write(replace(RECORD, loss=value, val_loss=value))
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["loss"] is None
    assert record["val_loss"] is None


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write(replace(RECORD, loss=0.1 + 0.2))
    assert json.loads(path.read_text())["loss"] == 0.1 + 0.2


def test_metrics_of_another_run_are_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UsageError, match="is there already: choose another --out"):
        Metrics(path)
    assert path.read_text() == "{}\n"


def lines(*steps: int) -> bytes:
    return b"".join(b'{"step": %d, "loss": 1.5}\n' % step for step in steps)


@pytest.mark.parametrize(
    "tail", [b"", b'{"step": 4, "lo', b'{"step": 4, "loss": 1.5}', b"\0\0\n", b"3\n", b"null\n"]
)
@pytest.mark.parametrize("later", [(), (3, 4)])
def test_a_file_goes_on_after_a_step_with_no_line_twice(
    tmp_path: Path, later: tuple[int, ...], tail: bytes
) -> None:
    """Lines after the checkpoint are cut, and one that a kill has torn."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2, *later) + tail)
    with Metrics(path, after=2) as metrics:
        metrics.write(replace(RECORD, step=3))
        metrics.sync()
    assert path.read_bytes().startswith(lines(1, 2))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_another_rank_cuts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2))
    with Metrics(path, enabled=False, after=0) as metrics:
        metrics.write(RECORD)
        metrics.sync()
    assert path.read_bytes() == lines(1, 2)


def test_a_line_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """What was written of it is cut when the run goes on."""
    path = tmp_path / "metrics.jsonl"
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Metrics(path) as metrics:
        metrics.write(RECORD)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, most))
        try:
            with pytest.raises(UsageError, match=rf"^{path} cannot be written: File too large$"):
                metrics.write(replace(RECORD, step=2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with Metrics(path, after=1):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1]
