"""The command `mpipar`: what it prints, its exit code, and that it never starts MPI. A failure shows what it said."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mpipar.cli import COMMANDS, main
from mpipar.config.flags import options
from mpipar.data.tokenfile import read_header
from mpipar.testing import launch

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mpipar.cli.tokenize.launched_size", lambda: 1)
    monkeypatch.setattr("mpipar.cli.launched_size", lambda: 1)
    (tmp_path / "words.txt").write_text("a few words\n")
    return tmp_path


def test_tokenize_tells_what_it_did(capsys: Capture) -> None:
    assert main(["tokenize", "words.txt", "--dtype", "uint16", "--out", "a.bin"]) == 0
    assert capsys.readouterr() == ("a.bin: 12 tokens (bytes, uint16) of 1 file, 280 B\n", "")
    assert read_header("a.bin").count == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokenise", "unknown command 'tokenise': did you mean tokenize?"),
        ("qqq", "unknown command 'qqq'; see mpipar --help"),
        ("--out a.bin", "unknown command '--out'; see mpipar --help"),
        ("tokenize", "tokenize needs text: write  mpipar tokenize INPUT ... --out FILE"),
        ("tokenize words.txt", "tokenize needs a file to write: add  --out tokens.bin"),
        ("tokenize words.txt --out", "--out needs a value: write --out TEXT"),
        ("tokenize words.txt --ot a.bin", "unknown flag --ot: did you mean --out?"),
        ("tokenize nowhere --out a.bin", "INPUT nowhere does not exist: there is no "),
        ("tokenize words.txt --out a.bin --tokenizer gpt2", "--tokenizer gpt2 is unknown. Known: bytes"),
        ("tokenize words.txt --out a.bin --dtype int8", "--dtype int8 is unknown: did you mean uint8?"),
        ("tokenize words.txt --out words.txt", "--out words.txt exists: add --force to write over it"),
    ],
)
def test_bad_usage_is_one_message_and_code_2(line: str, message: str, capsys: Capture, here: Path) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mpipar: {message}")
    assert err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["words.txt"]


@pytest.mark.parametrize("line", ["", "--help", "-h"])
def test_help_lists_the_commands(line: str, capsys: Capture) -> None:
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}  {command.meaning}" in out for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_lists_its_flags(name: str, capsys: Capture) -> None:
    assert main([name, "nonsense", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(option.flag.meaning in out for option in options(COMMANDS[name].flags).values())


def test_the_console_script_is_this_function() -> None:
    assert EntryPoint("mpipar", "mpipar.cli:main", "console_scripts").load() is main
    assert 'mpipar = "mpipar.cli:main"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


# ---- as a process ----------------------------------------------------------------------------------------------

AS_MODULE = "import runpy, sys\nrunpy.run_module('mpipar', run_name='__main__', alter_sys=True)\n"


@pytest.mark.launches
def test_it_runs_as_a_module_and_starts_no_mpi(here: Path) -> None:
    program = "import atexit, sys\natexit.register(lambda: print('mpi4py.MPI' in sys.modules))\n" + AS_MODULE
    done = launch(0, program, "tokenize", "words.txt", "--out", "a.bin", cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["a.bin: 12 tokens (bytes, uint8) of 1 file, 268 B", "False"]
    again = launch(0, program, "tokenize", "words.txt", "--out", "a.bin", cwd=here)
    assert (again.returncode, again.stdout) == (2, "False\n")
    assert again.stderr == "mpipar: --out a.bin exists: add --force to write over it, or name another\n"


@pytest.mark.launches
def test_under_mpirun_it_refuses_once(here: Path) -> None:
    done = launch(2, AS_MODULE, "tokenize", "words.txt", "--out", "a.bin", cwd=here)
    assert done.returncode == 2
    assert done.stderr.count("tokenize is the work of one process: start it without mpirun or srun") == 1
    assert not (here / "a.bin").exists()
