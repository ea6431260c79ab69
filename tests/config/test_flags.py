"""The command line and the config say the same.

A failure of the round trip shows a config that its own flags do not give back. Every other failure shows the
message that a person would have got.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from configs import ANY
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipar.config import TrainConfig, parse
from mpipar.config.flags import flag, options, read, usage
from mpipar.errors import UsageError

pytestmark = pytest.mark.alone


def flags(config: TrainConfig, joined: bool) -> list[str]:
    """The command line that says the config: ``--steps=3`` where joined, else ``--steps 3``."""
    words = []
    for name, option in options(TrainConfig).items():
        value = getattr(config, option.field)
        if isinstance(value, bool):
            words += [name] if value else []
        else:
            for text in value if isinstance(value, tuple) else (str(value),):
                words += [f"{name}={text}"] if joined or text.startswith("--") else [name, text]
    return words


@settings(database=None, derandomize=True, deadline=None)
@given(ANY, st.booleans())
def test_flags_round_trip(config: TrainConfig, joined: bool) -> None:
    assert parse(flags(config, joined)) == config


def test_no_flags_are_the_defaults() -> None:
    assert parse([]) == TrainConfig()


def test_a_list_grows_and_a_value_counts_last() -> None:
    config = parse(["--data", "a,b", "c", "--steps", "1", "--data=d", "--steps", "2"])
    assert config == replace(TrainConfig(), data=("a", "b", "c", "d"), steps=2)


def test_a_negative_number_is_a_value() -> None:
    assert parse(["--lr", "-1e-3"]).lr == -1e-3


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["--batchs", "3"], "unknown flag --batchs: did you mean --batch?"),
        (["--micro_batch=3"], "unknown flag --micro_batch: did you mean --micro-batch?"),
        (["-steps", "3"], "unknown flag -steps: did you mean --steps?"),
        (["--xyzzy"], "unknown flag --xyzzy; --help lists all flags"),
        (["--"], "unknown flag --; --help lists all flags"),
        (["train"], "'train' stands alone: every setting is a flag"),
        (["--steps", "many"], "--steps: 'many' given, a whole number wanted"),
        (["--steps", "1e3"], "--steps: '1e3' given, a whole number wanted"),
        (["--steps", "9" * 5000], "given, a whole number wanted"),
        (["--steps", "1", "2"], "'2' stands alone"),
        (["--lr", "fast"], "--lr: 'fast' given, a finite number wanted"),
        (["--lr="], "--lr: '' given, a finite number wanted"),
        (["--steps"], "--steps needs a value: write --steps 300"),
        (["--out", "--steps", "3"], "--out needs a value: write --out TEXT"),
        (["--data"], "--data needs a value: write --data PATH,..."),
        (["--dtype"], "--dtype needs a value: write --dtype float32|float64"),
        (["--data", ""], "--data: '' given, one or more paths, none of them empty wanted"),
        (["--data", "a,,b"], "--data: 'a,,b' given, one or more paths, none of them empty wanted"),
        (["--sequence-parallel=yes"], "--sequence-parallel is a switch and takes no value"),
        (["--sequence-parallel", "yes"], "'yes' stands alone"),
    ],
)
def test_one_message_says_what_is_wrong(argv: list[str], fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(argv)
    message = str(raised.value)
    assert fragment in message
    assert "\n" not in message


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--nonsense", "--help"]])
def test_help_is_said_once_and_exits_with_zero(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with pytest.raises(SystemExit) as left:
        parse(argv, said.append)
    assert left.value.code == 0
    assert len(said) == 1
    assert capsys.readouterr().out == ""


def test_help_lists_every_flag_with_its_meaning_and_default() -> None:
    said: list[str] = []
    with pytest.raises(SystemExit):
        parse(["--help"], said.append)
    for name, option in options(TrainConfig).items():
        line = next(line for line in said[0].splitlines() if line.split()[:1] == [name])
        assert option.flag.meaning in line
        assert option.default in ("", (), False) or f"(default {option.default})" in line
    assert all(len(line) <= 110 for line in said[0].splitlines())


# ---- switches, and words that stand alone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ("--sequence-parallel", True),
        ("--sequence-parallel --no-sequence-parallel", False),
        ("--no-sequence-parallel --sequence-parallel", True),
    ],
)
def test_a_switch_counts_last(line: str, on: bool) -> None:
    assert parse(line.split()).sequence_parallel is on


@dataclass(frozen=True)
class Walk:
    """Flags with words that stand alone."""

    places: tuple[str, ...] = flag((), "where to go", alone=True)
    steps: int = flag(1, "steps to walk")


def test_words_that_stand_alone_are_taken_as_they_are() -> None:
    assert read(Walk, ["a,b", "--steps", "3", "c"]) == Walk(("a,b", "c"), 3)
    assert read(Walk, []) == Walk()


def test_they_have_no_flag() -> None:
    with pytest.raises(UsageError, match="unknown flag --places"):
        read(Walk, ["--places", "a"])


def test_help_shows_them_first() -> None:
    text = usage(options(Walk), "walk")
    assert text.startswith("walk PLACES ... [--flag value ...]\n")
    assert "  PLACES ...  where to go" in text
