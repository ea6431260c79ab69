"""A config that a function returns: `--config FILE.py:FUNCTION`. A failure shows the message."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mpipar.config import TrainConfig, parse
from mpipar.errors import UsageError

pytestmark = pytest.mark.alone

FILE = """\
from dataclasses import dataclass, replace
from mpipar.config import TrainConfig

@dataclass(frozen=True)
class Sizes:
    width: int = 24

def small():
    return TrainConfig(width=Sizes().width, heads=3, lr=1, data=["a.txt"])

def longer(steps=9):
    return replace(small(), steps=steps)

def wrong_type(): return TrainConfig(steps="5")
def out_of_range(): return TrainConfig(dropout=1.0)
def a_dict(): return {"steps": 5}
def with_argument(steps): return TrainConfig(steps=steps)
def fails():
    return {}["width"]
def refuses():
    raise ValueError("no")
three = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.py"
    path.write_text(FILE)
    return path


def test_a_function_of_a_file(file: Path) -> None:
    small = replace(TrainConfig(), width=24, heads=3, lr=1.0, data=("a.txt",))
    assert parse(["--config", f"{file}:small"]) == small
    assert type(parse(["--config", f"{file}:small"]).lr) is float
    assert parse(["--config", f"{file}:longer", "--heads", "4"]) == replace(small, steps=9, heads=4)


def test_a_function_of_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    assert parse(["--config", "settings:small"]).width == 24
    del sys.modules["settings"]


def test_every_rank_calls_it(file: Path) -> None:
    """Rank 0's word, which is nothing, is not taken for it."""
    assert parse(["--config", f"{file}:small"], once=lambda make: {}).width == 24


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "there is no smal in {file}: did you mean small?"),
        ("wrong_type", '{file}:wrong_type: steps = "5": a whole number wanted, as steps = 300'),
        ("out_of_range", "{file}:out_of_range: dropout = 1.0: must be a finite number, at least 0, below 1"),
        ("a_dict", "{file}:a_dict returned dict: return a mpipar.config.TrainConfig"),
        ("with_argument", "with_argument must be a function without arguments"),
        ("three", "three must be a function without arguments"),
        ("fails", "{file}:fails: KeyError: 'width' ({file}, line 19)"),
        ("refuses", "{file}:refuses: ValueError: no ({file}, line 21)"),
        ("", "names no function: write FILE.py:FUNCTION or package.module:function"),
        ("small()", "names no function"),
    ],
)
def test_one_message_says_what_is_wrong(file: Path, name: str, message: str) -> None:
    assert message.replace("{file}", str(file)) in refusal(f"{file}:{name}")


def test_a_file_alone_names_no_function(file: Path) -> None:
    assert "names no function: write FILE.py:FUNCTION" in refusal(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", ":f: ModuleNotFoundError: No module named 'no_such_module' ("),
        ("def f(:", ":f: SyntaxError: invalid syntax (settings.py, line 1)"),
        ("x = 1\n1 / 0", ":f: ZeroDivisionError: division by zero ("),
    ],
)
def test_a_file_that_cannot_be_imported(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    assert message in refusal(f"{file}:f")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py:f", "FileNotFoundError"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("os.path:joinn", "there is no joinn in os.path: did you mean join?"),
        ("builtins:min", "min must be a function without arguments"),  # it has no signature
        (":f", "names no function"),
    ],
)
def test_nothing_there(source: str, message: str) -> None:
    assert message in refusal(source)


def refusal(source: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(["--config", source])
    message = str(raised.value)
    assert "\n" not in message
    assert source in message
    return message
