"""What a config file sets, and that a config that was written reads back equal.

A failure of the round trip shows the config and the file that does not give it back. Every other failure shows the
message that a person would have got.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from configs import LEGAL, TEXTS
from hypothesis import given, note

from mpipar.config import TrainConfig, as_toml, check, parse
from mpipar.config.flags import options
from mpipar.errors import UsageError

pytestmark = pytest.mark.alone


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


@given(config=LEGAL, header=TEXTS)
def test_a_written_config_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, config: TrainConfig, header: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    text = as_toml(config, header)
    note(text)
    path.write_text(text, encoding="utf-8")
    assert parse(["--config", str(path)]) == config


def test_each_field_stands_below_its_meaning_and_limits() -> None:
    text = as_toml(TrainConfig(), "mpipar 1: train.py\nsteps = 7")
    lines = text.splitlines()
    assert lines[:2] == [r"# mpipar 1: train.py\nsteps = 7", ""]
    for option in options(TrainConfig).values():
        above = lines[next(k for k, line in enumerate(lines) if line.startswith(f"{option.field} = ")) - 1]
        assert above.startswith(f"# {option.flag.meaning}")
    assert "# probability of dropping a value in training (at least 0, below 1)\ndropout = 0.0\n" in text
    assert '# of the learning rate after warm-up (cosine, constant)\nlr_schedule = "cosine"\n' in text


FILE = """
mesh = "dp=2,tp=2"
data = ["a, b.txt", 'c\\d']  # a comma belongs to the name
sequence_parallel = true
steps = 1_000
lr = 1
"""


def test_a_file_wins_over_the_defaults_and_flags_over_it(written: Path) -> None:
    written.write_text(FILE)
    config = replace(
        TrainConfig(), mesh="dp=2,tp=2", data=("a, b.txt", "c\\d"), sequence_parallel=True, steps=1000, lr=1.0
    )
    line = ["--config", str(written)]
    assert parse(line) == config
    assert type(parse(line).lr) is float
    assert parse(["--steps", "5", *line]) == replace(config, steps=5)
    assert parse([*line, "--steps", "5", "--data", "x"]) == replace(config, steps=5, data=("x",))
    assert parse([*line, "--no-sequence-parallel"]) == replace(config, sequence_parallel=False)


def test_of_two_files_the_last_counts(written: Path, tmp_path: Path) -> None:
    written.write_text("steps = 1\nbatch = 1")
    (tmp_path / "other.toml").write_text("steps = 2")
    config = parse(["--config", str(written), "--config", str(tmp_path / "other.toml")])
    assert config == replace(TrainConfig(), steps=2)


def test_a_mark_at_the_beginning_is_no_part_of_the_file(written: Path) -> None:
    written.write_bytes(b"\xef\xbb\xbfsteps = 3\r\n")
    assert parse(["--config", str(written)]).steps == 3


def test_rank_0_reads_for_all(written: Path) -> None:
    """`once` gives what rank 0 read; this rank would have read something else."""
    written.write_text("steps = 4")
    assert parse(["--config", str(written)], once=lambda make: {**make(), "batch": 7}).batch == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchs = 3", ", line 1: unknown key 'batchs': did you mean batch?"),
        ("steps = 1\n\nmicro-batch = 3", ", line 3: unknown key 'micro-batch': did you mean micro_batch?"),
        ("'micro-batch' = 3", ", line 1: unknown key 'micro-batch': did you mean micro_batch?"),
        ("qqq = 3", ", line 1: unknown key 'qqq'; the keys are the flags of --help, with _ for -"),
        ("config = 'x.toml'", ", line 1: unknown key 'config'"),
        ('"bat\\u0063hs" = 3', ": unknown key 'batchs': did you mean batch?"),
        ("[train]\nsteps = 3", ", line 1: [train] is a table: settings stand at the top of the file"),
        ("steps = 3\n[[steps_of]]\n", ", line 2: unknown key 'steps_of': did you mean steps?"),
        ("lr.max = 3", ", line 1: [lr] is a table"),
        ('steps = "ten"', ', line 1: steps = "ten": a whole number wanted, as steps = 300'),
        ("steps = 1.0", ", line 1: steps = 1.0: a whole number wanted, as steps = 300"),
        ("steps = true", ", line 1: steps = true: a whole number wanted"),
        ("lr = '1'", ', line 1: lr = "1": a finite number wanted, as lr = 0.002'),
        ("lr = false", ", line 1: lr = false: a finite number wanted"),
        (f"lr = 1{'0' * 400}", ": a finite number wanted, as lr = 0.002"),
        ("lr = 2026-11-24", ', line 1: lr = "2026-11-24": a finite number wanted'),
        (
            "sequence_parallel = 1",
            ", line 1: sequence_parallel = 1: a switch wanted, as sequence_parallel = true",
        ),
        ("out = 3", ', line 1: out = 3: a text wanted, as out = "TEXT"'),
        (
            "data = 'a'",
            ', line 1: data = "a": one or more paths, none of them empty wanted, as data = ["PATH"]',
        ),
        ("data = ['a', '']", ', line 1: data = ["a", ""]: one or more paths, none of them empty wanted'),
        ("data = [1]", ", line 1: data = [1]: one or more paths"),
        ("steps = -1", ", line 1: steps = -1: must be a whole number, at least 0"),
        ("\nlr = nan", ", line 2: lr = NaN: must be a finite number, above 0"),
        ("dropout = 1.0", ", line 1: dropout = 1.0: must be a finite number, at least 0, below 1"),
        ("dtype = 'float8'", ', line 1: dtype = "float8" is unknown: did you mean float64? Known: '),
        ("mesh = 'td=2'", ", line 1: mesh = \"td=2\": --mesh td=2: unknown axis 'td': did you mean tp?"),
        ("steps = ", " is no TOML: Invalid value (at line 1, column 9)"),
        ("steps = 1\nsteps = 2", " is no TOML: Cannot overwrite a value (at line 2, column 10)"),
    ],
)
def test_one_message_names_file_line_key_and_value(written: Path, text: str, message: str) -> None:
    written.write_text(text)
    assert message in refusal(str(written))


def test_lines_are_counted_as_toml_ends_them(written: Path) -> None:
    written.write_text("out = 'a\u2028b'  # one line\n\nbatchs = 3", encoding="utf-8")
    assert refusal(str(written)).startswith(f"{written}, line 3: unknown key 'batchs'")


def test_a_line_within_a_longer_text_is_no_key(written: Path) -> None:
    written.write_text('out = """\nbatchs = 1\n"""\nbatchs = 3')
    assert refusal(str(written)).startswith(f"{written}, line 4: unknown key 'batchs'")


def test_what_is_no_file_of_text(written: Path, tmp_path: Path) -> None:
    assert refusal(str(written)) == f"--config {written} cannot be read: No such file or directory"
    assert refusal(str(tmp_path)) == f"--config {tmp_path} cannot be read: Is a directory"
    assert refusal("") == "--config  cannot be read: No such file or directory"
    written.write_bytes(b"steps = 3 # \xff")
    assert refusal(str(written)) == f"--config {written} is no UTF-8 at byte 12: write it as UTF-8"


def refusal(source: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(["--config", source])
    message = str(raised.value)
    assert "\n" not in message
    assert source in message
    return message


@pytest.mark.parametrize("value", [{"data": ("a", "\udcff.txt")}, {"out": "\udcff"}])
def test_a_name_that_no_file_could_hold_is_refused(value: dict[str, Any]) -> None:
    """The command line gives bytes that are no UTF-8 as lone surrogates."""
    said = r"--data a,\udcff.txt" if "data" in value else r"--out \udcff"
    with pytest.raises(UsageError, match=re.escape(f"{said} is no UTF-8: name it by a directory")):
        check(TrainConfig(**value), 1)
