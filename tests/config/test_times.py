"""Lengths of time as SLURM writes them. A failure shows the text and what was made of it."""

from __future__ import annotations

import pytest

from mpipar.config.times import parse_limit, seconds
from mpipar.errors import UsageError

pytestmark = pytest.mark.alone

DAY = 86_400


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1", 60),
        ("90", 5400),
        ("0:15", 15),
        ("1:30", 90),
        ("01:30:00", 5400),
        ("100:00:00", 360_000),
        ("1-0", DAY),
        ("2-12", 2 * DAY + 43_200),
        ("2-12:30", 2 * DAY + 45_000),
        ("2-12:30:01", 2 * DAY + 45_001),
    ],
)
def test_slurms_forms(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "0:00", "0-0", "1:2:3:4", "1.5", "-1", "1h", "1-", "-1:00", " 1", "1\n", "1:00;ls", "٣", "1:", ":30",
        "1-2-3",
    ],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 90"):
        seconds(text)
    with pytest.raises(UsageError, match="--time-limit "):
        parse_limit(text)


def test_the_two_words() -> None:
    parse_limit("auto")
    parse_limit("none")
    with pytest.raises(UsageError, match="--time-limit never"):
        parse_limit("never")
