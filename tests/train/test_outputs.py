"""What a user gets from train.py: the table, the lines, the validation loss, the sample and metrics.jsonl.

A failure shows what was printed or written instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from runs import Run, attempt, train, write_text

pytestmark = pytest.mark.launches

MODEL = "--batch 5 --context 16 --width 24 --heads 3 --layers 1 --warmup 2 "
FIELDS = ["step", "loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_s", "comm_s", "comm_bytes"]
LINE = re.compile(
    r"step +(?P<step>\d+)/7  loss (?P<loss>\d\.\d{4})  grad \d+\.\d{3}  lr (?P<lr>\d\.\d\de-\d\d)  [\d,]+ tokens/s  "
    r"\d+:\d\d left(  validation loss (?P<val_loss>\d\.\d{4}))?"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("data") / "words.txt")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two ranks of tp, 7 steps, a line every 3 and a validation every 4."""
    flags = "--mesh tp=2 --steps 7 --log-every 3 --val-every 4 --val-batches 2 --sample 40"
    return train(2, MODEL + flags, tmp_path_factory.mktemp("run") / "out", data)


Short = Callable[..., Run]


@pytest.fixture
def short(data: Path, tmp_path: Path) -> Short:
    """``short("--steps 3")``: a run on two ranks of dp that validates and samples only if it is asked to."""
    return lambda flags, ranks=2: train(
        ranks, f"{MODEL} --val-every 0 --sample 0 {flags}", tmp_path / "out", data
    )


# ---- stdout -------------------------------------------------------------------------------------------------


def test_mesh_data_and_directory_come_first(run: Run) -> None:
    assert re.fullmatch(r"Mesh\(tp=2; rank 0\) on (the CPU|GPU) \(.+\), results in (.+)", run.lines[0])
    assert run.lines[0].endswith(f" {run.out}")
    assert run.lines[1] == "1 file: 38.0 kB to train on, 2.0 kB to validate with"


def test_the_table_has_a_line_for_each_weight(run: Run) -> None:
    cells = [re.split(r"  +", line) for line in run.lines]
    head, total = (
        next(k for k, row in enumerate(cells) if row[0].startswith(word)) for word in ("weight", "total")
    )
    assert cells[head] == ["weight", "shape", "placement", "bytes here"]
    rows = {name: rest for name, *rest in cells[head + 1 : total]}
    assert cells[total][0] == f"total: {len(rows)} weights"
    assert len(rows) == 1 + 1 + 12 + 2  # embedding, positions, a block, the last norm
    assert rows["embedding.weight"] == ["(256, 24)", "tp=Shard(0)", "12.3 kB"]
    assert rows["positions.weight"] == ["(16, 24)", "Replicate()", "1.5 kB"]
    assert rows["blocks.0.attention.qkv.weight"] == ["(24, 3, 3, 8)", "tp=Shard(2)", "4.6 kB"]  # 2 of 3 heads
    assert rows["blocks.0.mlp.down.bias"] == ["(24)", "Replicate()", "96 B"]


def test_lines_come_every_few_steps_at_validations_and_at_the_end(run: Run) -> None:
    lines = [LINE.fullmatch(line) for line in run.lines if line.startswith("step")]
    assert all(lines), run.lines
    assert [int(line["step"]) for line in lines if line] == [3, 4, 6, 7]
    assert [int(line["step"]) for line in lines if line and line["val_loss"]] == [4, 7]


def test_lines_tell_what_metrics_hold(run: Run) -> None:
    records = {record["step"]: record for record in run.records}
    for line in filter(None, map(LINE.fullmatch, run.lines)):
        record = records[int(line["step"])]
        assert line["loss"] == f"{record['loss']:.4f}"
        assert line["lr"] == f"{record['lr']:.2e}"
        assert (line["val_loss"] is None) == ("val_loss" not in record)
        assert line["val_loss"] in (None, f"{record.get('val_loss', 0):.4f}")


def test_validation_loss_and_sample_come_last(run: Run) -> None:
    text = run.finished.stdout
    assert f"\nvalidation loss {run.records[-1]['val_loss']:.4f} nats a byte\n" in text
    _, heading, sample = text.partition("\na sample from the model:\n")
    assert heading
    assert sample.startswith("def ")
    assert len(sample) > len("def ") + 5


def test_a_pipe_gets_plain_text_and_nothing_on_stderr(run: Run) -> None:
    for text in (run.finished.stdout, run.finished.stderr):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert "Warning" not in run.finished.stderr


# ---- metrics.jsonl --------------------------------------------------------------------------------------------


def test_metrics_have_the_named_fields_in_order(run: Run) -> None:
    lines = (run.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    for line in lines:
        record = json.loads(line)
        assert list(record) == FIELDS + ["val_loss"] * (record["step"] in (4, 7))
    assert sorted(path.name for path in run.out.iterdir()) == [
        ".lock", "config.toml", "metrics.jsonl", "run.json",
    ]  # fmt: skip


def test_metrics_are_sound(run: Run) -> None:
    for record in run.records:
        assert record["tokens"] == record["step"] * 5 * 16
        assert record["tokens_per_s"] * record["step_s"] == pytest.approx(5 * 16)
        assert 0 < record["comm_s"] < record["step_s"]
        assert isinstance(record["comm_bytes"], int)
        assert record["loss"] == pytest.approx(math.log(256), abs=0.5)
    assert run.numbers("lr")[:2] == [1e-3, 2e-3]  # two steps of warm-up
    assert run.numbers("lr")[-1] == pytest.approx(2e-4)  # a tenth of it


def test_bytes_are_those_of_the_collectives(run: Run) -> None:
    """An extra collective anywhere in a step shows here; tests/nn says where it is."""
    stream, row = 4 * 5 * 16 * 24, 4 * 5 * 16  # float32
    replicated = 4 * (16 * 24 + 3 * 2 * 24 + 2 * 24)  # positions, norms, the biases of rows
    forward = 3 * stream + 2 * row + 4  # embedding, attention, mlp; the loss; its number for the log
    backward = 3 * stream + replicated + 8  # the same again; sync; the norm in float64
    assert set(run.numbers("comm_bytes")) == {forward + backward}


# ---- flags --------------------------------------------------------------------------------------------------


def test_validation_and_sample_can_be_turned_off(short: Short) -> None:
    run = short("--steps 3")
    assert [list(record) for record in run.records] == [FIELDS] * 3
    assert "validation loss" not in run.finished.stdout
    assert "a sample from the model" not in run.finished.stdout
    assert run.lines[-1].startswith("step 3/3")


def test_no_steps_only_validate(short: Short) -> None:
    run = short("--steps 0 --val-every 1 --sample 5")
    assert run.records == []
    (loss,) = re.findall(r"^validation loss ([\d.]+) nats a byte$", run.finished.stdout, re.MULTILINE)
    assert float(loss) == pytest.approx(math.log(256), abs=0.1)
    assert not any(line.startswith("step") for line in run.lines)
    assert "a sample from the model:\ndef " in run.finished.stdout


def test_no_steps_and_nothing_else_end_well(short: Short) -> None:
    assert short("--steps 0").records == []


@pytest.mark.parametrize("flags", ["--batch 5 --micro-batch 2", "--batch 7 --micro-batch 100"])
def test_batches_need_not_divide(short: Short, flags: str) -> None:
    run = short(f"--steps 2 {flags}")
    batch = int(flags.split()[1])
    assert run.numbers("tokens") == [batch * 16, 2 * batch * 16]


def test_one_rank_without_mpirun_sends_nothing(short: Short) -> None:
    run = short("--steps 2", ranks=0)
    assert run.lines[0].startswith("Mesh(one rank; rank 0)")
    assert run.numbers("comm_bytes") == [0, 0]


# ---- --out --------------------------------------------------------------------------------------------------


def test_out_may_exist(short: Short, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert len(short("--steps 1").records) == 1
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_without_out_a_directory_is_named_by_date(data: Path, tmp_path: Path) -> None:
    before = datetime.now().replace(microsecond=0)
    flags = f"{MODEL} --steps 1 --val-every 0 --sample 0 --data {data}"
    finished = attempt(2, flags.split(), tmp_path)
    assert finished.returncode == 0, finished.stderr
    (out,) = (tmp_path / "runs").iterdir()
    assert before <= datetime.strptime(out.name, "%Y-%m-%d-%H%M%S") <= datetime.now()
    assert f"results in runs/{out.name}\n" in finished.stdout
    assert len(Run(finished, out).records) == 1


# ---- numbers that are no longer numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["1", "0"])
def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path, clip: str) -> None:
    flags = (
        f"--optimizer sgd --lr 1e30 --lr-schedule constant --warmup 0 --clip {clip} --steps 9 --val-every 0"
    )
    finished = attempt(2, f"{MODEL} {flags} --data {data} --out {tmp_path / 'out'}".split(), tmp_path)
    assert finished.returncode == 2
    ranks = r"rank 0 \(first in '[\w.]+'\), rank 1 \(first in '[\w.]+'\)"
    message = rf"^step (\d+): the loss is \S+, the gradient norm \S+\. .*({ranks})\. Try a lower --lr"
    ((step, _),) = re.findall(message, finished.stderr, re.MULTILINE)
    assert "Traceback" not in finished.stderr
    records = Run(finished, tmp_path / "out").records
    assert [record["step"] for record in records] == list(range(1, int(step)))
    assert records
    assert all(math.isfinite(value) for record in records for value in record.values())
