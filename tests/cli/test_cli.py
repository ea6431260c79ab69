"""The command `mpipar`: what it prints, its exit code, and that it never starts MPI. A failure shows what it said."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mpipar import Mesh, __version__
from mpipar.checkpoint import save
from mpipar.cli import COMMANDS, main
from mpipar.config.flags import options
from mpipar.data.tokenfile import read_header
from mpipar.job import world
from mpipar.nn import LayerNorm
from mpipar.testing import launch

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mpipar.cli.tokenize.launched_size", lambda: 1)
    monkeypatch.setattr("mpipar.cli.checkpoint.launched_size", lambda: 1)
    monkeypatch.setattr("mpipar.cli.show.launched_size", lambda: 1)
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
        ("checkpoint", "checkpoint needs a verb: write  mpipar checkpoint ls|show|verify|merge PATH"),
        ("checkpoint lst .", "checkpoint 'lst' is unknown: did you mean ls?"),
        ("checkpoint ls", "checkpoint ls takes one PATH, not 0: write  mpipar checkpoint"),
        ("checkpoint ls . .", "checkpoint ls takes one PATH, not 2"),
        ("checkpoint ls nowhere", "nowhere: no checkpoint is there"),
        ("checkpoint verify words.txt", "words.txt is not a directory, so it holds no checkpoint"),
        ("checkpoint show . --out b", "--out FILE belongs to checkpoint merge, which needs it"),
        ("checkpoint merge .", "--out FILE belongs to checkpoint merge, which needs it"),
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


def test_checkpoints_are_listed_shown_verified_and_merged(capsys: Capture, here: Path) -> None:
    """Each verb takes a checkpoint, the directory of several, or the run that has them in `checkpoints`."""
    alone = Mesh(ranks=[world().rank])
    layer = LayerNorm("norm", 4, alone)
    save(here / "run" / "checkpoints", 7, layer, seed=3)

    def said(line: str, code: int = 0) -> str:
        assert main(line.split()) == code
        out, err = capsys.readouterr()
        assert err == ""
        return out

    for path in ("run", "run/checkpoints", "run/checkpoints/step-00000007"):
        assert said(f"checkpoint ls {path}").startswith("step-00000007  ")
        assert "norm.gain" in said(f"checkpoint show {path}")
        assert "every byte is as it was written" in said(f"checkpoint verify {path}")
    assert said("checkpoint merge run --out w.safetensors").startswith("w.safetensors: ")
    assert (here / "w.safetensors").stat().st_size > 32
    shard = here / "run" / "checkpoints" / "step-00000007" / "rank-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert "rank-00000.safetensors: its bytes are not those" in said("checkpoint verify run", code=1)


def test_the_version_is_told(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mpipar {__version__}\n"


@pytest.mark.parametrize("line", ["", "--help", "-h"])
def test_help_lists_the_commands(line: str, capsys: Capture) -> None:
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    assert [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")] == [
        [name, command.meaning] for name, command in COMMANDS.items()
    ]


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


@pytest.mark.launches
def test_who_reads_may_have_enough() -> None:
    """As in `mpipar --help | head -1`: no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mpipar", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
