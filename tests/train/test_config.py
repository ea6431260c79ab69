"""Runs from a config file, a config function and a token file. A failure shows two configs, or two curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from runs import Run, attempt, write_text

from mpipar.config import parse
from mpipar.data import list_files
from mpipar.data.tokenfile import Header
from mpipar.data.tokenize import write_tokens

pytestmark = pytest.mark.launches

SMALL = """\
batch = 4
context = 16
width = 24
heads = 3
layers = 1
steps = 3
val_every = 3
val_batches = 1
sample = 5
data = ["words.txt"]
"""
FUNCTION = """\
from mpipar.config import TrainConfig

def small():
    return TrainConfig(
        batch=4, context=16, width=24, heads=3, layers=1, steps=3, val_every=3, val_batches=1, sample=5,
        data=("words.txt",),
    )
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the run is started: a config as a file and as a function, and the text that it names."""
    write_text(tmp_path / "words.txt", 4000)
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "small.py").write_text(FUNCTION)
    return tmp_path


def run(here: Path, ranks: int, line: str, out: str) -> Run:
    """A run that succeeds, in that directory."""
    finished = attempt(ranks, [*line.split(), "--out", out], here)
    assert finished.returncode == 0, finished.stderr
    return Run(finished, here / out)


def curve(run: Run) -> list[float]:
    return run.numbers("loss") + run.numbers("val_loss")


def test_a_run_from_a_file_can_be_repeated_from_what_it_wrote(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(here, 2, "--config small.toml --mesh tp=2 --seed 5", "a")
    written = here / "a" / "config.toml"
    monkeypatch.chdir(here)
    config = replace(parse(["--config", "small.toml"]), mesh="tp=2", seed=5, out="a")
    assert parse(["--config", str(written)]) == config
    header = written.read_text().splitlines()[0]
    assert header.startswith("# mpipar ")
    assert header.endswith("train.py --config small.toml --mesh tp=2 --seed 5 --out a")
    assert ": mpirun -n 2 python " in header
    assert curve(run(here, 2, "--config a/config.toml", "b")) == curve(first)


@pytest.mark.parametrize("ranks", [0, 4])
def test_a_function_gives_the_run_of_the_file(here: Path, ranks: int) -> None:
    of_file = run(here, ranks, "--config small.toml", "a")
    assert curve(run(here, ranks, "--config small.py:small", "b")) == curve(of_file)
    assert len(curve(of_file)) == 4


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_a_token_file_gives_the_run_of_its_text(here: Path, dtype: str) -> None:
    write_tokens(list_files([str(here / "words.txt")]), str(here / "words.bin"), dtype)
    text, tokens = (run(here, 2, f"--config small.toml --data words.{end}", end) for end in ("txt", "bin"))
    assert curve(tokens) == curve(text)
    assert tokens.lines[1] == text.lines[1]  # how much there is to train on
    assert "a sample from the model:\ndef " in tokens.finished.stdout


def test_the_vocabulary_is_the_one_of_the_file(here: Path) -> None:
    """Over tp, cut unevenly; a tokenizer that mpipar does not have writes no sample."""
    ids = b"".join((7 * n % 1001).to_bytes(2, "little") for n in range(2000))
    (here / "own.bin").write_bytes(Header("uint16", 2000, 1001, "own", bytes(32)).packed() + ids)
    of_two = run(here, 2, "--config small.toml --data own.bin --mesh tp=2 --dtype float64", "a")
    assert "embedding.weight" in of_two.finished.stdout
    assert "(1001, 24)" in of_two.finished.stdout
    assert "nats a token\n" in of_two.finished.stdout
    assert "no sample: mpipar cannot write the tokens of own as text\n" in of_two.finished.stdout
    assert curve(of_two) == pytest.approx(
        curve(run(here, 0, "--config small.toml --data own.bin --dtype float64", "b")), rel=1e-9
    )


def test_an_id_too_large_that_one_rank_reads_ends_all(here: Path) -> None:
    """In a file that is too long to be looked at when it is opened."""
    count = (1 << 24) + 1
    with (here / "long.bin").open("wb") as file:
        file.write(Header("uint16", count, 300, "own", bytes(32)).packed())
        file.truncate(256 + 2 * count)
        file.seek(256 + 2 * (count - 16))  # the last row of the validation
        file.write(b"\xff\xff")
    flags = "--config small.toml --data long.bin --steps 0 --val-every 1 --batch 2 --val-batches 1 --out a"
    finished = attempt(2, flags.split(), here)
    assert finished.returncode == 2
    message = f"long.bin, byte {256 + 2 * (count - 16)}: id 65535 is not below 300"
    assert finished.stderr.count(message) == 1, finished.stderr
    assert "Traceback" not in finished.stderr
