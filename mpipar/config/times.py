"""A length of time as SLURM writes it: ``90`` (minutes), ``1:30:00``, ``2-12`` (days and hours), ``2-12:00:00``."""

from __future__ import annotations

import re

from mpipar.errors import UsageError

BY_SLURM, NO_LIMIT = "auto", "none"  # of --time-limit; anything else is a length of time
FORMS = re.compile(r"(?:(?P<days>\d{1,4})-)?(?P<fields>\d{1,7}(?::\d{1,2}){0,2})", re.ASCII)


def seconds(text: str) -> int:
    """The seconds of a length of time. Raises UsageError for another form, and where it is none.

    >>> seconds("90"), seconds("1:30:00"), seconds("1:30"), seconds("2-12"), seconds("2-12:30")
    (5400, 5400, 90, 216000, 217800)
    """
    match = FORMS.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is no length of time: write 90 (minutes), 1:30:00 or 2-12:00:00 (days first)"
        )
    fields = [int(field) for field in match["fields"].split(":")]
    if match["days"] is not None:  # hours come first
        hours, minutes, rest = (*fields, 0, 0)[:3]
        total = ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + rest
    else:  # minutes, minutes:seconds, hours:minutes:seconds
        hours, minutes, rest = {1: (0, *fields, 0), 2: (0, *fields), 3: tuple(fields)}[len(fields)]
        total = (hours * 60 + minutes) * 60 + rest
    if total == 0:
        raise UsageError(
            f"{text!r} is no time at all: write 90 (minutes), 1:30:00 or 2-12:00:00 (days first)"
        )
    return total


def parse_limit(text: str) -> None:
    """Raises UsageError for what --time-limit does not take."""
    if text in (BY_SLURM, NO_LIMIT):
        return
    try:
        seconds(text)
    except UsageError as error:
        raise UsageError(f"--time-limit {text}: {error}; auto is SLURM's, none is none") from None
