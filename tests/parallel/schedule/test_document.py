"""The chart and the file in docs/pipeline.md are what the library makes and reads; its program runs with all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpipar.parallel.schedule import make, read
from mpipar.parallel.schedule.draw import as_mermaid

pytestmark = pytest.mark.alone

DOCUMENT = (Path(__file__).parents[3] / "docs" / "pipeline.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_chart() -> None:
    assert block("mermaid") == as_mermaid(make("zero_bubble", 3, 4))


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "1f1b.toml"
    path.write_text(block("toml"))
    assert read(path) == make("1f1b", 2, 2)
