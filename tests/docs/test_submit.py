"""docs/submit.md has the table [slurm] as it is, and a valid example. A failure shows the row or the message."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mpipar.config.flags import options
from mpipar.launch.settings import Slurm, read

DOCUMENT = Path(__file__).parents[2] / "docs" / "submit.md"


def test_each_key_has_its_row() -> None:
    written = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = []
    for option in options(Slurm).values():
        default = json.dumps(list(option.default) if isinstance(option.default, tuple) else option.default)
        rows.append(f"| `{option.field}` | `{default}` | {option.flag.meaning} |")
    assert written == rows


def test_the_example_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "gpt.toml").write_text(text)
    submission = read(str(tmp_path / "gpt.toml"))
    assert (submission.slurm.ranks, submission.run.steps, submission.slurm.requeue) == (32, 20_000, True)
