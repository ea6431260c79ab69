"""`mpipar show`: what it prints and writes, and bad usage in one message. A failure shows what it said."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipar.cli import main
from mpipar.parallel.schedule import make, read

Capture = pytest.CaptureFixture[str]
SUMMARY = """\
zero_bubble, ranks 2, stages 2, micro-batches 3
complete, free of deadlock; a step takes 10; bubble 10.0 %; peak of live activations by rank: 2 2
"""
SHOW = "show --schedule zero_bubble --ranks 2 --micro-batches 3"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mpipar.cli.show.launched_size", lambda: 1)
    monkeypatch.setattr("mpipar.cli.launched_size", lambda: 1)
    return tmp_path


def show(words: str) -> int:
    return main(["show", *words.split()])


def test_text(capsys: Capture) -> None:
    assert main(SHOW.split()) == 0
    assert capsys.readouterr() == (
        "rank 0  F0F1..B0W0F2B1W1B2W2\n"
        "rank 1  ..F0B0F1B1W0F2B2W1W2\n"
        "F forward; B backward for the input; W backward for the weights; . idle; 2 columns are 1 of time\n"
        f"\n{SUMMARY}",
        "",
    )


@pytest.mark.parametrize(("format", "begins"), [("svg", "<svg "), ("mermaid", "---\n"), ("toml", "# A pipe")])
def test_a_drawing_goes_to_a_file_or_a_pipe(format: str, begins: str, capsys: Capture, here: Path) -> None:
    assert main([*SHOW.split(), "--format", format]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(begins)
    assert err == SUMMARY
    assert main([*SHOW.split(), "--format", format, "--out", "drawn"]) == 0
    assert capsys.readouterr() == (f"drawn: {SUMMARY}", "")
    assert (here / "drawn").read_text() == out


def test_a_file_is_shown_and_says_its_own_numbers(capsys: Capture) -> None:
    assert main([*SHOW.split(), "--format", "toml", "--out", "mine.toml"]) == 0
    assert read("mine.toml") == make("zero_bubble", 2, 3)
    for more in ([], ["--ranks", "2"], ["--micro-batches", "3"]):
        capsys.readouterr()
        assert main(["show", "--schedule", "mine.toml", *more]) == 0
        assert capsys.readouterr().out.endswith(SUMMARY)


def test_durations(capsys: Capture) -> None:
    assert (
        main(
            [
                "show",
                "--schedule",
                "1f1b",
                "--ranks",
                "2",
                "--micro-batches",
                "2",
                "--backward-weight",
                "0",
                "--send",
                "0.5",
            ]
        )
        == 0
    )
    assert "a step takes 7; bubble 42.9 %; peak of live activations by rank: 2 1" in capsys.readouterr().out


def test_defaults(capsys: Capture) -> None:
    assert show("--schedule interleaved --chunks 3") == 0
    assert "interleaved, ranks 4, stages 12, micro-batches 8\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show", "show needs something to show: write  mpipar show --schedule gpipe|1f1b|interleaved|zero_bubble|FILE"),
        ("show --schedule 1f1", "schedule '1f1' is unknown: did you mean 1f1b? Known: gpipe, 1f1b"),
        ("show --schedule a.toml", "a.toml cannot be read: No such file or directory"),
        ("show --schedule bad.toml", "bad.toml: ranks is missing: write  ranks = 4"),
        ("show --schedule good.toml --ranks 3", "good.toml: it is for ranks = 1, and this run has 3"),
        ("show --schedule 1f1b --ranks -1", "--ranks -1: must be a whole number, at least 0"),
        ("show --schedule 1f1b --ranks x", "--ranks: 'x' given, a whole number wanted"),
        ("show --schedule 1f1b --chunks 2", "--chunks belongs to --schedule interleaved: the others have one"),
        ("show --schedule 1f1b --forward 0", "--forward 0.0: must be a finite number, above 0"),
        ("show --schedule 1f1b --format png", "--format png is unknown"),
        ("show --schedule 1f1b --out bad.toml", "--out bad.toml exists: add --force to write over it, or name"),
        ("show --schedule 1f1b --out no/where", "--out no/where cannot be written: No such file or directory"),
        ("show 1f1b", "'1f1b' stands alone: every setting is a flag"),
    ],
)  # fmt: skip
def test_bad_usage_is_one_message_and_code_2(line: str, message: str, capsys: Capture, here: Path) -> None:
    (here / "bad.toml").write_text("")
    assert (
        main(
            [
                "show",
                "--schedule",
                "gpipe",
                "--ranks",
                "1",
                "--micro-batches",
                "1",
                "--format",
                "toml",
                "--out",
                "good.toml",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mpipar: {message}")
    assert err.count("\n") == 1
