"""A Python block of README.md or docs/ that begins with `# mpirun -n N python FILE` prints the text block after it.

A failure shows the difference: mend the program, or copy the new output into the document. A block without a text
block after it prints nothing; a block without that first line is not run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mpipar.testing import launch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(
    r"^```python\n(?P<program># mpirun -n (?P<ranks>\d+) python (?P<file>[\w.-]+)\n.*?)^```\n"
    r"(?:\s*^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def blocks(document: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(document.read_text(encoding="utf-8")))


@pytest.mark.launches
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{document.name}-{block['file']}")
        for document in DOCUMENTS
        for block in blocks(document)
    ],
)
def test_block_prints_what_the_document_shows(block: re.Match[str], tmp_path: Path) -> None:
    script = tmp_path / block["file"]
    script.write_text(block["program"], encoding="utf-8")
    run = launch(int(block["ranks"]), script, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (block["output"] or "")


def test_the_readme_has_a_program() -> None:
    assert blocks(DOCUMENTS[0])


@pytest.mark.launches
def test_own_noise_is_the_same_on_one_rank(tmp_path: Path) -> None:
    """docs/random.md says so."""
    (block,) = blocks(ROOT / "docs" / "random.md")
    run = launch(1, block["program"], cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, block["output"]), run.stderr
